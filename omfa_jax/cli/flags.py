"""Command-line parsing: the parser, the types of flags, and flags that were renamed."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.local_paths import expand_home, find_path_fault
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.value_rules import MAX_COUNT, MAX_SEED, FloatRange, IntRange, Rule, format_value

# bounds shared by flags of the same meaning
BATCH_MAX, WORKERS_MAX, SIDE_MAX_PX = 2**20, 4096, 16384


# command -> {old flag: new flag}
# an old flag gets an error with its new name, and not argparse's usage line
RENAMED_FLAGS: dict[str, dict[str, str]] = {
    "sample": {"--raw-weights": "--no-ema"},
    "eval": {
        "--raw-weights": "--no-ema",
        "--networks": "--metric-weights",
        "--any-weights": "--skip-checksum",
        "--restart": "--overwrite",
    },
    "data synthesize": {"--layout": "--dataset"},
    "data fit": {"--keypoints": "--dataset"},
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


class HelpFormatter(argparse.HelpFormatter):
    """Appends the default to each flag's help, unless the help names it already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        # switches, and flags that must be given, have no default to show
        takes_value = action.option_strings and action.nargs != 0 and not action.required
        if not takes_value or default is argparse.SUPPRESS or "default" in text:
            return text
        if f"({default})" in text:
            return text
        if default in (None, "") or default == []:
            return f"{text} (default: none)"
        return f"{text} (default: %(default)s)"


# their value is the options of another program, such as "--runner=DirectRunner"
FLAGS_OF_FLAGS = ("--beam-options",)


class Parser(argparse.ArgumentParser):
    """A parser that raises OmfaError instead of printing usage, and shows defaults in its help."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but for flags whose value is flags: it would refuse a dash."""
        words = list(sys.argv[1:] if args is None else args)
        for index in range(len(words) - 2, -1, -1):
            if words[index] in FLAGS_OF_FLAGS:
                words[index : index + 2] = [f"{words[index]}={words[index + 1]}"]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise an OmfaError that names the command whose --help lists the flags."""
        raise OmfaError(f"{' '.join(message.split())} (see {self.prog} --help)")


class BoundedValue:
    """An argparse type: `parse` converts the text, and `row` checks the value."""

    def __init__(self, row: Rule, parse: Callable[[str], Any]):
        self.row, self._parse = row, parse

    def __call__(self, text: str) -> Any:
        """Return the value, or raise an ArgumentTypeError that says what is expected."""
        try:
            return self.row.read(self._parse(text))
        except ValueError:
            expected = f"expected {self.row.expected}, got {format_value(text)}"
            raise argparse.ArgumentTypeError(expected) from None


def int_between(least: int = 0, most: int = MAX_COUNT, *, multiple_of: int = 1) -> BoundedValue:
    """Return the argparse type of an integer from `least` to `most`, both included."""
    return BoundedValue(IntRange(least, most, multiple_of=multiple_of), int)


def float_between(
    least: float, most: float, *, above: bool = False, below: bool = False
) -> BoundedValue:
    """Return the argparse type of a finite float; `above` and `below` exclude the bounds."""
    return BoundedValue(
        FloatRange(least, most, exclusive_minimum=above, exclusive_maximum=below), float
    )


def make_rule_type(row: IntRange | FloatRange) -> BoundedValue:
    """Return the argparse type of a number in a table of rules, such as SAMPLER_RULES["steps"]."""
    return BoundedValue(row, int if isinstance(row, IntRange) else float)


def parse_path_text(text: str) -> str:
    """Return a local path with ~ expanded; raise for "", a URL and other texts that name none."""
    if fault := find_path_fault(text):
        came = format_value(text)
        raise argparse.ArgumentTypeError(
            f"expected the name of a file or folder, got {came}; {fault}"
        )
    return expand_home(text)


def parse_path(text: str) -> Path:
    """Return a local Path, as `parse_path_text` does."""
    return Path(parse_path_text(text))


def parse_any_path_text(text: str) -> str:
    """Return a local path or a URL of object storage; raise as `parse_path_text` does."""
    if fault := find_path_fault(text, allow_storage=True):
        came = format_value(text)
        raise argparse.ArgumentTypeError(
            f"expected the name of a file or folder, or gs:// or s3://, got {came}; {fault}"
        )
    return expand_home(text)


def parse_any_path(text: str) -> AnyPath:
    """Return a path of this machine or of object storage, as `parse_any_path_text` does."""
    return to_path(parse_any_path_text(text))


SEED_TYPE = int_between(0, MAX_SEED)
WORKERS_TYPE = int_between(1, WORKERS_MAX)
BATCH_TYPE = int_between(1, BATCH_MAX)
SIDE_PX_TYPE = int_between(16, SIDE_MAX_PX)
PERSON_INDEX_TYPE = int_between(0, 9999)
EFFICIENCY_TYPE = float_between(0, 1, above=True)
