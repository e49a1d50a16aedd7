"""Plot the loss of a 500-step run with three forced restarts over that of an uninterrupted run.

    PYTHONPATH=.:tests python bench/curve.py --workdir DIR --out docs/restarts.png

trains the UNet of tests/tiny_training.py twice, on images of one colour. The second run's process
is killed (SIGKILL) at three random moments and restarted. Needs matplotlib.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from omfa_jax.core.append_only import read_json_lines
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

TRAIN = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_compilation_cache_dir", str(Path(sys.argv[1]).parent / "cache"))
import dataclasses
import numpy as np
from tiny_training import CountingBatches, make_run
from omfa_jax.train.loop import train

class Colours(CountingBatches):
    def __next__(self):
        return {
            name: np.broadcast_to(value[:, :1, :1], value.shape) if value.ndim == 4 else value
            for name, value in super().__next__().items()
        }

run = make_run(Path(sys.argv[1]), int(sys.argv[2]), (1, 4, 1), save_every_steps=25)
train(dataclasses.replace(run, batches=Colours()))
"""


def main() -> int:
    """Train twice, plot and compare; return 1 unless the losses are bit-equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the plot, a PNG")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    straight, restarted = options.workdir / "straight", options.workdir / "restarted"
    if start(straight, options.steps).wait():
        return 1
    rng, killed = random.Random(1), []
    for share in (0.2, 0.5, 0.8):
        process = start(restarted, options.steps)
        while (find_newest_complete_step(restarted / "checkpoints", warn=False) or 0) < (
            share * options.steps
        ):
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.wait()
        killed.append(find_newest_complete_step(restarted / "checkpoints", warn=False))
    if start(restarted, options.steps).wait():
        return 1
    ours, theirs = losses(straight), losses(restarted)
    plot(ours, theirs, killed, options.out)
    same = ours == theirs
    print(
        f"{options.steps} steps, killed three times (resumed from steps {killed}):"
        f" losses {'bit-equal' if same else 'DIFFER'};"
        f" first {ours[1]:.4f}, last {ours[options.steps]:.4f}"
    )
    return 0 if same else 1


def start(workdir: Path, steps: int) -> subprocess.Popen:
    """Start a process that trains in `workdir`, or resumes there."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-c", TRAIN, str(workdir), str(steps)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def losses(workdir: Path) -> dict[int, float]:
    """Return the logged loss of each step."""
    return {row["step"]: row["loss"] for _, row in read_json_lines(workdir / "metrics.jsonl")}


def plot(ours: dict[int, float], theirs: dict[int, float], killed: list, out: Path) -> None:
    """Draw one curve over the other, with the steps at which the second was resumed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot(ours.keys(), ours.values(), color="0.75", linewidth=4, label="never stopped")
    axes.plot(theirs.keys(), theirs.values(), color="C0", linewidth=0.8, label="killed three times")
    for step in killed:
        axes.axvline(step, color="C3", linestyle=":", label="resumed" if step == killed[0] else "")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
