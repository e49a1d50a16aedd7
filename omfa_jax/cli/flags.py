"""What flags take: numbers that are numbers, within bounds, and paths that name something."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omfa_jax.core.bounds import COUNT_MAX, SEED_MAX, Number, Row, Whole, shown
from omfa_jax.core.errors import OmfaError

# what flags of the same meaning share
BATCH_MAX, WORKERS_MAX, SIDE_MAX_PX = 2**20, 4096, 16384


# command -> {old flag: new flag}
RENAMED_FLAGS: dict[str, dict[str, str]] = {
    "sample": {"--raw-weights": "--no-ema"},
    "eval": {
        "--raw-weights": "--no-ema",
        "--networks": "--metric-weights",
        "--any-weights": "--skip-checksum",
    },
    "data bodies": {"--trust": "--allow-pickle"},
    "scaling plan": {
        "--machine": "--topology",
        "--unique": "--dataset-size",
        "--least-steps": "--min-steps",
        "--most-epochs": "--max-epochs",
    },
    "scaling fit": {"--unique": "--dataset-size"},
}


def refuse_renamed_flags(command: str, words: Sequence[str]) -> None:
    """Raise an OmfaError for the first flag that has another name now.

    `words` are what follows `omfa COMMAND`; the first may be a subcommand.
    """
    for name in (command, " ".join([command, *words[:1]])):
        for word in words:
            old = word.partition("=")[0]
            new = RENAMED_FLAGS.get(name, {}).get(old)
            if new is not None:
                raise OmfaError(f"{old} has been renamed to {new} (see omfa {name} --help)")


class Parser(argparse.ArgumentParser):
    """A parser whose faults are an OmfaError, one line as all others, and not a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and say where the flags are listed."""
        raise OmfaError(f"{' '.join(message.split())} (see {self.prog} --help)")


class Value:
    """An argparse type: text of which `parse` makes a value that `row` takes."""

    def __init__(self, row: Row, parse: Callable[[str], Any]):
        self.row, self._parse = row, parse

    def __call__(self, text: str) -> Any:
        """Return the value; what is none is an ArgumentTypeError that says what is taken."""
        try:
            return self.row.read(self._parse(text))
        except ValueError:
            expected = f"expected {self.row.expected}, got {shown(text)}"
            raise argparse.ArgumentTypeError(expected) from None


def whole(least: int = 0, most: int = COUNT_MAX, *, multiple_of: int = 1) -> Value:
    """Return the type of a whole number from `least` to `most`."""
    return Value(Whole(least, most, multiple_of=multiple_of), int)


def number(least: float, most: float, *, above: bool = False, below: bool = False) -> Value:
    """Return the type of a finite number; `above` and `below` leave the ends out."""
    return Value(Number(least, most, above=above, below=below), float)


def of(row: Whole | Number) -> Value:
    """Return the type of a number that a table of settings describes."""
    return Value(row, int if isinstance(row, Whole) else float)


def path_text(text: str) -> str:
    """Return a path as it was given; an empty one, as an unset variable makes it, is none."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected the name of a file or folder, got {text!r}")
    return text


def to_path(text: str) -> Path:
    """Return a path; an empty one, as an unset variable makes it, is none."""
    return Path(path_text(text))


SEED = whole(0, SEED_MAX)
WORKERS = whole(1, WORKERS_MAX)
BATCH = whole(1, BATCH_MAX)
SIDE_PX = whole(16, SIDE_MAX_PX)
EFFICIENCY = number(0, 1, above=True)
