"""`omfa sample --pairs`: kills, devices and batch sizes change no byte; pictures per second.

    PYTHONPATH=.:tests python bench/sample_pairs.py --workdir DIR [--pairs 500] [--people 40]

Synthesizes people and garments, and samples random pairs of them with a tiny random model. Each run
is a command of its own; the killed one gets SIGKILL twice, after a third and after two thirds of
the pictures, and is continued on another number of devices each time. Prints one table: the rate
that the command logs (without compiling and the first round), and how the folder differs from the
first run's. The exit status is 1 if a run that must give the same bytes does not.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from omfa_jax.core.images import read_rgb
from omfa_jax.synthetic.world_writer import write_world

COMMAND = [sys.executable, "-m", "omfa_jax.cli.main", "sample", "--steps=4", "--seed=7"]
HANG_S = 900.0
THREADS = 8
# what a finished run leaves: the lock file is empty
ALLOWED_HIDDEN = {".lock"}


def main() -> int:
    """Run all commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--people", type=int, default=40)
    options = parser.parse_args()
    root = options.workdir.absolute()
    make_inputs(root, options.people, options.pairs)

    log = run(root, "whole", 1)
    first = read_files(root / "whole")
    print("| run | pictures/s | compared with the first |\n| --- | --- | --- |")
    print(f"| one device, undisturbed | {find_rate(log)} | {len(first)} files |", flush=True)
    passed = True
    left, log = run_with_kills(root, options.pairs)
    same, said = compare(first, root / "other")
    passed &= same
    what = f"killed (SIGKILL) with {left[0]} and {left[1]} pictures, on 1, 8 and 1 devices"
    print(f"| {what} | {find_rate(log)} (the rest) | {said} |", flush=True)
    for name, devices, flags in (
        ("eight virtual devices", 8, []),
        ("one device, --batch-size 1", 1, ["--batch-size=1"]),
        ("eight virtual devices, --batch-size 8", 8, ["--batch-size=8"]),
    ):
        log = run(root, "other", devices, *flags)
        same, said = compare(first, root / "other")
        passed &= same
        print(f"| {name} | {find_rate(log)} | {said} |", flush=True)
    for rows in (1, 8):
        log = run(root, "other", 1, f"--rows-per-device={rows}")
        _, said = compare(first, root / "other")
        print(f"| one device, --rows-per-device {rows} | {find_rate(log)} | {said} |", flush=True)
    return 0 if passed else 1


def make_inputs(root: Path, people: int, count: int) -> None:
    """Write the people, the list of pairs and the model, if they are not there."""
    from tiny_model import make_tiny_model, save_tiny_model

    write_world(root / "raw", seed=1, counts={"test": people}, height_px=128, width_px=96)
    names = sorted(path.name for path in (root / "raw/test/image").iterdir())
    every = [f"{person} {garment}\n" for person in names for garment in names]
    chosen = random.Random(0).sample(every, count)
    (root / "list.txt").write_text("".join(chosen))
    if not (root / "model").is_dir():
        save_tiny_model(root / "model", make_tiny_model())


def start(root: Path, out: str, devices: int, *flags: str) -> subprocess.Popen:
    """Start the command in its own session; its log is in OUT.log."""
    raw = root / "raw/test"
    words = [f"--checkpoint={root}/model", f"--pairs={root}/list.txt", f"--out={root / out}"]
    words += [f"--persons={raw}/image", f"--garments={raw}/cloth", *flags]
    quiet = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "TQDM_DISABLE": "1"}
    # XLA splits sums on a CPU by its threads: as many as there are cores or devices, or NPROC
    quiet["NPROC"] = str(THREADS)
    here = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (root / f"{out}.log").open("w") as log:
        return subprocess.Popen(
            [*COMMAND, *words],
            env=os.environ | quiet | here,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def run(root: Path, out: str, devices: int, *flags: str, resume: bool = False) -> str:
    """Run the command to its end; return its log."""
    if not resume:
        shutil.rmtree(root / out, ignore_errors=True)
    status = start(root, out, devices, *flags).wait(HANG_S)
    log = (root / f"{out}.log").read_text()
    if status:
        raise SystemExit(f"exit status {status}:\n{log}")
    return log


def run_with_kills(root: Path, count: int) -> tuple[list[int], str]:
    """Kill the command twice and finish it; return the pictures at each kill, and the last log."""
    out = root / "other"
    shutil.rmtree(out, ignore_errors=True)
    left = []
    for share, devices in ((1 / 3, 1), (2 / 3, 8)):
        running = start(root, "other", devices)
        while count_pictures(out) < share * count and running.poll() is None:
            time.sleep(0.002)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(HANG_S)
        left.append(count_pictures(out))
    return left, run(root, "other", 1, resume=True)


def count_pictures(out: Path) -> int:
    """Return the number of pictures in a folder."""
    return len(list(out.glob("[!.]*.png")))


def read_files(out: Path) -> dict[str, bytes]:
    """Return every file below a folder that a finished run may not leave otherwise."""
    found = [path for path in out.rglob("*") if path.is_file() and path.name not in ALLOWED_HIDDEN]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def compare(first: dict[str, bytes], out: Path) -> tuple[bool, str]:
    """Return whether all files have the first run's bytes, and what to say."""
    now = read_files(out)
    if now == first:
        return True, f"the same bytes, all {len(now)} files"
    if {*now} != {*first}:
        return False, f"other files: {sorted({*now} ^ {*first})[:5]}"
    pictures = [name for name in first if name.endswith(".png") and now[name] != first[name]]
    levels = [
        int(np.abs(read_rgb(now[name]).astype(int) - read_rgb(first[name])).max())
        for name in pictures
    ]
    return False, f"{len(pictures)} pictures differ, by {max(levels, default=0)} of 255 at most"


def find_rate(log: str) -> str:
    """Return the rate that the command has logged."""
    found = re.search(r"([\d.]+) pictures/s on", log)
    return found[1] if found else "-"


if __name__ == "__main__":
    raise SystemExit(main())
