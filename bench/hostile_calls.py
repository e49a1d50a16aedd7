"""Call every command with hostile input, and list the calls that end in a way they should not.

    PYTHONPATH=. python bench/hostile_calls.py [--only PATTERN] [--verbose]

Each call runs in a process forked from this one, which has imported what commands import; some run
without root's right to write what belongs to others. A call fails if it prints a traceback or more
than a few lines of errors, has another status than its case names, takes longer than a minute or
more than 6 GB, or changes an input. Prints a table of the failures, and the counts.
"""

import argparse
import contextlib
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hostile_file_cases import file_cases, records_cases
from hostile_flag_cases import number_cases, path_cases, place_cases
from hostile_inputs import REPO, Case, make_world

SECONDS, MOST_BYTES, MOST_LINES = 60, 6 * 2**30, 6
NO_RESTART = 2
GROUPS = (records_cases, path_cases, file_cases, number_cases, place_cases)


def main() -> int:
    """Run all cases; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="pattern of names of cases (default: all)")
    parser.add_argument("--verbose", action="store_true", help="print what every call said")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(REPO)
    os.environ["JAX_PLATFORMS"] = "cpu"
    import_everything()
    cases = [case for group in GROUPS for case in group() if re.search(options.only, case.name)]
    random.Random(0).shuffle(cases)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        # what a few calls compile is compiled once
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{name}/compiled"
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        world = Path(name) / "world"
        world.mkdir()
        make_world(world)
        os.chmod(name, 0o755)
        # names that are relative lead here
        os.mkdir(f"{name}/here")
        os.chdir(f"{name}/here")
        for case in cases:
            fault, said = run(case, world, Path(name))
            if fault:
                failed.append((case, fault, said))
            print(".", end="", flush=True, file=sys.stderr)
            if options.verbose or fault:
                print(f"{'FAILED' if fault else 'ok'}: {case.name}: {fault}", flush=True)
                print("\n".join(f"    {line[:300]}" for line in said.splitlines()[-4:]), flush=True)
    print(f"{len(cases)} calls, {len(failed)} failed")
    return 1 if failed else 0


def import_everything() -> None:
    """Import what commands import, so that a forked call starts at once."""
    import jax

    import convert_weights
    from omfa_jax.cli import main as omfa

    for name in omfa.COMMANDS:
        with contextlib.suppress(Exception):
            omfa.make_parser(name, [])
    del jax, convert_weights


def run(case: Case, world: Path, folder: Path) -> tuple[str, str]:
    """Run one case; return what is wrong with it, "" if nothing is, and what it said."""
    if case.make or case.uid:
        own = folder / "own"
        shutil.copytree(world, own, symlinks=True)
        if case.make:
            case.make(own)
        if case.uid:
            for path in (own / "empty", own / "photo.jpg", own / "records/omfa_records.json"):
                os.chown(path, case.uid, case.uid)
        world = own
    out = folder / "out"
    out.mkdir()
    os.chmod(out, 0o777)
    before = digest(world)
    words = [word.replace("{w}", str(world)).replace("{o}", str(out)) for word in case.words]
    start = time.monotonic()
    try:
        status, said, used = (run_shell if case.shell else run_fork)(case, words, folder)
        faults = []
        if "Traceback" in said or re.search(r"\b\w+(Error|Exception)\b: ", said):
            faults.append("a traceback or a bare exception")
        if status not in case.wanted:
            faults.append(f"status {status}")
        if len(said.splitlines()) > MOST_LINES and status:
            faults.append(f"{len(said.splitlines())} lines")
        if status and not said.strip() and not case.shell:
            faults.append("silent")
        if time.monotonic() - start > SECONDS:
            faults.append("took more than a minute")
        if used > MOST_BYTES:
            faults.append(f"{used / 2**30:.1f} GB")
        if digest(world) != before:
            faults.append("changed an input")
        # a run that is refused late has a workdir, which says so
        left = [name for name in os.listdir() if f"{name}/x" not in words]
        if status == NO_RESTART and left:
            faults.append(f"refused, and left {left}")
        return ", ".join(faults), said
    finally:
        for made in (out, folder / "own", *Path().iterdir()):
            shutil.rmtree(made, ignore_errors=True)


def run_fork(case: Case, words: list[str], folder: Path) -> tuple[int, str, int]:
    """Run a call in a forked process; return (status, stderr, peak bytes)."""
    errors = folder / "stderr"
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            with open(errors, "w") as err, open(os.devnull) as none:
                os.dup2(none.fileno(), 0)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(err.fileno(), 2)
            # this process's own are pipes that Python has buffered
            sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
            sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
            for name, value in case.environment.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            if case.uid:
                obey_permissions()
            status = call(case, words)
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)
    return wait(child, errors)


def obey_permissions() -> None:
    """Give up root's right to read and write what belongs to others (capset(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, held = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, held)
    # effective, permitted and inheritable of capabilities 0 to 31, then of the others
    words = list(struct.unpack("6I", held.raw))
    # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    words[:3] = (word & ~0b110 for word in words[:3])
    if libc.capset(header, struct.pack("6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


def wait(child: int, errors: Path) -> tuple[int, str, int]:
    """Wait for a child for at most a minute; return (status, stderr, peak bytes)."""
    end = time.monotonic() + SECONDS + 5
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    said = errors.read_text(errors="backslashreplace")
    return os.waitstatus_to_exitcode(status), said, usage.ru_maxrss * 1024


def call(case: Case, words: list[str]) -> int:
    """Call the command in this process; return its status."""
    import traceback

    try:
        if case.convert:
            import convert_weights

            return convert_weights.main(words)
        from omfa_jax.cli.main import main as omfa

        return omfa(words)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1


def run_shell(case: Case, words: list[str], folder: Path) -> tuple[int, str, int]:
    """Run a command line of a shell; return (status, stderr, 0)."""
    import shlex

    omfa = shlex.join([sys.executable, "-m", "omfa_jax.cli.main", *words])
    script = "set -o pipefail; " + case.shell.replace("$OMFA", omfa)
    with open(folder / "stderr", "w+") as err:
        process = subprocess.Popen(
            ["bash", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        err.seek(0)
        return status, err.read(), 0


def digest(folder: Path) -> str:
    """Return a digest of a folder's names and contents."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(os.fsencode(path))
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
