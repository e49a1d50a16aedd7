"""Two sides of a benchmark that take turns, each turn in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def take_turns(
    script: str, sides: Sequence[str], arguments: list[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --side SIDE` A B A B; return what each turn printed as its last line of JSON.

    A process of its own finds no memory that the other side took, and no clock speed but the
    machine's of that minute: so the two take turns.
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


def seconds_of(turns: list[dict[str, Any]]) -> list[float]:
    """Return all the seconds of one side's turns."""
    return [second for turn in turns for second in turn["seconds"]]
