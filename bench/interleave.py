"""Interleaved runs of a benchmark's sides, each run in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run_interleaved(
    script: str, sides: Sequence[str], arguments: list[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --side SIDE` as A B A B; return each run's last line of output, parsed as JSON.

    Interleaving exposes both sides to the same changes of clock speed and load; separate processes
    keep one side's memory from affecting the other.
    """
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            command = [sys.executable, script, *arguments, "--side", side]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
            turns[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
            seconds = ", ".join(f"{s:.3f}" for s in turns[side][-1]["seconds"])
            print(f"{side:10} {seconds}", flush=True)
    return turns


def collect_seconds(turns: list[dict[str, Any]]) -> list[float]:
    """Return the seconds of all runs of one side."""
    return [second for turn in turns for second in turn["seconds"]]
