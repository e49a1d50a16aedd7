"""Kill one of two training processes again and again: only steps since the last save are lost.

    PYTHONPATH=.:tests python bench/kills.py --workdir DIR --kills 20

trains the small run of tests/processes.py on two processes, saving every third step. It kills
(SIGKILL) the two in turn, each after a random time, restarts both, and finally compares the
parameters bit for bit with those of an uninterrupted run. Every other kill may come at any time
after the start (rendezvous, compilation, restore, first save), the others come after a save.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
import processes

from omfa_jax.core import trees
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step


def main() -> int:
    """Kill, resume, compare; return 1 unless the end is bit-equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    rng = random.Random(0)
    killed = options.workdir / "killed"
    environment = {"MESH": "2,2,1", "SAVE": "3", "PAUSE": "0.05"}
    for index in range(options.kills):
        before = newest(killed)
        running = processes.start(killed, options.steps, 2, **environment)
        if index % 4 < 2:
            # the first save takes some seconds after a start; later kills come at any moment
            while newest(killed) == before and all(p.poll() is None for p in running):
                time.sleep(0.05)
            time.sleep(rng.uniform(0.0, 1.5))
        else:
            time.sleep(rng.uniform(0.0, 15.0))
        if running[index % 2].poll() is not None:
            print("it had already exited:", processes.finish(running), file=sys.stderr)
            return 1
        running[index % 2].kill()
        ended = processes.finish(running)
        print(
            f"kill {index + 1} of process {index % 2}: saved {before} -> {newest(killed)},"
            f" the other ended with {ended[1 - index % 2][0]}",
            flush=True,
        )
    reached = newest(killed)
    steps = reached + 10
    straight = options.workdir / "straight"
    for workdir in (killed, straight):
        for status, _, errors in processes.finish(
            processes.start(workdir, steps, 2, **environment)
        ):
            if status:
                print(errors[-2000:], file=sys.stderr)
                return 1
    ours, theirs = (dict(trees.flatten(restore_params(w)[0])) for w in (killed, straight))
    equal = all(np.array_equal(leaf, theirs[path]) for path, leaf in ours.items())
    print(f"step {steps} after {options.kills} kills: {'bit-equal' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


def newest(workdir: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 without one."""
    return find_newest_complete_step(workdir / "checkpoints", warn=False) or 0


if __name__ == "__main__":
    sys.exit(main())
