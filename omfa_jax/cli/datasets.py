"""The flags of `omfa data build` that say what is taken from a raw data set."""

import argparse
from typing import Any

from omfa_jax.cli.flags import SEED, number, path_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a data set that has no use for one refuses it."""
    parser.add_argument(
        "--clean",
        type=path_text,
        metavar="FILE",
        help="list of photos to leave out (.json or text)",
    )
    parser.add_argument(
        "--parse-labels", metavar="SET", help="of VITON-HD's parse maps: cihp (default), lip, atr"
    )
    parser.add_argument(
        "--split-shares",
        metavar=("TRAIN", "VAL", "TEST"),
        type=number(0, 1),
        nargs=3,
        help="of a set without splits (DeepFashion-MultiModal): default 0.965 0.01 0.025",
    )
    parser.add_argument("--split-seed", type=SEED, help="of a set without splits: default 0")


def item_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that were given, by the names that the builders know."""
    names = ("clean", "parse_labels", "split_shares", "split_seed")
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}
