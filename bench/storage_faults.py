"""Train on gs:// through a proxy that injects faults, and kill the process again and again.

    PYTHONPATH=.:tests:tools python bench/storage_faults.py --kills 30

trains the small run of tests/processes.py on a server on loopback, saving every second step, once
for each kind of fault of tests/storage_proxy.py and for outages that last. A run that ends with a
named error is started again, as a launch script would. At last one is killed (SIGKILL) at random
moments. The parameters at the end of each are compared bit for bit with those of a run on a disk.
"""

import argparse
import random
import re
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import processes
from gs_emulator import make_environment, start_server
from storage_proxy import KINDS, Fault, start_proxy, use_store

from omfa_jax.core import trees
from omfa_jax.core.append_only import read_json_lines
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import NO_RESTART
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

STEPS = 8
# with the lock of the workdir, as `omfa train` has it
LOCK = (
    "import atexit; from omfa_jax.core.atomic_files import exclusive_lock;"
    " lock = exclusive_lock(workdir / '.lock', 'another run'); lock.__enter__();"
    " atexit.register(lock.__exit__, None, None, None)"
)
SETTINGS = {"MESH": "1,1,1", "SAVE": "2", "PAUSE": "0.02", "BEFORE": LOCK}
MAX_STARTS = {"401": 20}
# that last: name, fault, and what the store does at the next start
LASTING = {
    "429 for the first 60 requests": Fault("429", share=1, most=60, after=40),
    "503 for 25 requests, at a save": Fault("503", share=1, most=25, after=80),
    "401 until the next start": Fault("401", share=1, after=80),
    "resets for 25 requests, at a save": Fault("reset", share=1, most=25, after=80),
    "no commit mark can be written": Fault("503", share=1, only="commit_success"),
}


def main() -> int:
    """Print a line for each kind of fault; return 1 if one of them cost anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--share", type=float, default=0.03, help="of the requests (default: 0.03)")
    parser.add_argument("--only", default="", help="pattern of names of faults (default: all)")
    options = parser.parse_args()
    faults = {kind: Fault(kind, share=options.share) for kind in KINDS} | LASTING
    # TensorStore asks for no new token: each that hits an array costs a start
    faults["401, three times"] = Fault("401", share=options.share, most=3)
    bad = 0
    with start_server() as url, tempfile.TemporaryDirectory() as folder:
        straight = run_to(Path(folder), STEPS, url)
        assert straight == [0], straight
        for name, fault in faults.items():
            if re.search(options.only, name):
                bad += not inject(name, fault, url, Path(folder))
        if options.kills:
            bad += not kill(options.kills, url, Path(folder) / "killed")
    return 1 if bad else 0


def inject(name: str, fault: Fault, url: str, straight: Path) -> bool:
    """Train through one fault; print a line and return whether the end is bit-equal."""
    place = to_path(f"gs://bucket/{uuid.uuid4().hex}")
    begun, said, statuses = time.monotonic(), [], []
    with start_proxy(url, fault) as proxy:
        # what no restart mends is mended by somebody, here for credentials alone
        final = (0,) if fault.kind == "401" else (0, NO_RESTART)
        while not set(final) & set(statuses) and len(statuses) < MAX_STARTS.get(fault.kind, 6):
            if statuses and fault.share == 1:
                proxy.fault = None
            statuses += run_to(place, STEPS, proxy.url, said)
        count = sum(proxy.requests.values())
    with use_store(url):
        equal = is_equal(place, straight)
        rows = {row["step"] for _, row in read_json_lines(place / "metrics.jsonl")}
    whole = rows == set(range(1, STEPS + 1))
    print(
        f"| {name} | {fault.injected} of {count} | {', '.join(map(str, statuses))} |"
        f" {'bit-equal' if equal else 'NOT bit-equal'} | {'all' if whole else sorted(rows)} |"
        f" {time.monotonic() - begun:.0f} s |",
        *(f"\n    {line}" for line in said),
        flush=True,
    )
    return equal and whole


def run_to(workdir: AnyPath, steps: int, url: str, said: list[str] | None = None) -> list[int]:
    """Train to `steps` in another process; return [its exit status]."""
    environment = {**SETTINGS, **make_environment(url)}
    started = processes.start(workdir, steps, 1, devices=1, **environment)
    ((status, _, errors),) = processes.finish(started, timeout=1200)
    if status and said is not None:
        said += [line[:300] for line in errors.splitlines() if line.startswith("omfa")]
        said += errors.splitlines()[-1:] if not said else []
    return [status]


def is_equal(ours: AnyPath, theirs: AnyPath) -> bool:
    """Return whether the last checkpoints of two workdirs have the same bits."""
    try:
        (a, step), (b, other) = restore_params(ours), restore_params(theirs)
    except OmfaError as error:
        print(error, file=sys.stderr)
        return False
    flat = dict(trees.flatten(b))
    return step == other and all(np.array_equal(x, flat[path]) for path, x in trees.flatten(a))


def newest(workdir: AnyPath) -> int:
    """Return the step of the newest complete checkpoint; 0 without one."""
    return find_newest_complete_step(workdir / "checkpoints", warn=False) or 0


def kill(kills: int, url: str, straight: Path) -> bool:
    """Kill a run at random moments; print a line and return whether the end is bit-equal."""
    place, rng = to_path(f"gs://bucket/{uuid.uuid4().hex}"), random.Random(0)
    straight.mkdir()
    environment = {**SETTINGS, **make_environment(url)}
    reached, lost = [], 0
    with use_store(url):
        for index in range(kills):
            before = reached[-1] if reached else 0
            (process,) = processes.start(place, 100_000, 1, devices=1, **environment)
            # every other one after a save, or none would get further on a slow machine
            while index % 2 == 0 and process.poll() is None and newest(place) == before:
                time.sleep(0.1)
            time.sleep(rng.uniform(0.0, 3.0 if index % 2 == 0 else 12.0))
            if process.poll() is not None:
                print("it had already exited:", processes.finish([process]), file=sys.stderr)
                return False
            process.kill()
            processes.finish([process])
            reached.append(newest(place))
            lost += reached[-1] < before
        steps = reached[-1] + 2
        for workdir in (place, straight):
            said: list[str] = []
            if (ended := run_to(workdir, steps, url, said)) != [0]:
                print(f"{workdir} ended with {ended} before step {steps}:", *said, sep="\n    ")
                return False
        equal = is_equal(place, straight)
        rows = {row["step"] for _, row in read_json_lines(place / "metrics.jsonl")}
    whole = rows >= set(range(1, steps + 1))
    print(
        f"{kills} kills: saved steps {', '.join(map(str, reached))}; {lost} saves lost;"
        f" {'bit-equal' if equal else 'DIFFERENT'} at step {steps}; rows"
        f" {'complete' if whole else 'missing'}"
    )
    return equal and whole and not lost


if __name__ == "__main__":
    sys.exit(main())
