"""`--config` and `--print-config` of every command that takes a config."""

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.flags import parse_path_text
from omfa_jax.core.errors import OmfaError

if TYPE_CHECKING:
    from omfa_jax.cli.config_lib import Config

PRINT_FLAG = "--print-config"

CONFIG_FILE = '''\
"""A config with all values and overrides, as --print-config gives it; --config reads it."""

from ml_collections import ConfigDict

CONFIG = {values}


def get_config() -> ConfigDict:
    """Return the complete configuration."""
    return ConfigDict(CONFIG)
'''


def add_config_flags(parser: argparse.ArgumentParser, text: str, *, required: bool = True) -> None:
    """Add `--config`, with `text` as its help, and `--print-config`."""
    parser.add_argument(
        "--config", required=required, type=parse_path_text, metavar="FILE", help=text
    )
    parser.add_argument(
        PRINT_FLAG,
        action="store_true",
        help="print the config with its overrides, as a file for --config, and exit",
    )


def require_config_only(parser: argparse.ArgumentParser) -> None:
    """Make all flags but `--config` optional, also those of subcommands, for `--print-config`."""
    for group in parser._mutually_exclusive_groups:
        group.required = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                require_config_only(inner)
        elif "--config" not in action.option_strings:
            action.required = False
            # a positional argument
            if not action.option_strings and action.nargs is None:
                action.nargs = "?"


def print_config(options: argparse.Namespace) -> None:
    """Print the config of the flags as a Python file."""
    from omfa_jax.cli.config_lib import load_config

    if options.config is None:
        raise OmfaError(f"{PRINT_FLAG} prints the config of --config FILE: give one")
    print(format_config_file(load_config(options.config, options.overrides)), end="")


def format_config_file(config: "Config") -> str:
    """Return a Python file that `load_config` reads as the same config; one value a line."""
    values = "\n".join(_format_values(config.to_dict(), 0))
    return CONFIG_FILE.format(values=values)


def _format_values(tree: Mapping[str, Any], depth: int) -> Iterator[str]:
    yield "{"
    for name, value in tree.items():
        start = f"{'    ' * (depth + 1)}{name!r}: "
        if isinstance(value, Mapping):
            first, *rest = _format_values(value, depth + 1)
            yield start + first
            yield from rest[:-1]
            yield f"{rest[-1]},"
        else:
            yield f"{start}{value!r},"
    yield f"{'    ' * depth}}}"
