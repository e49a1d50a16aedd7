"""Flags of `omfa data build` and `omfa data check` that select items of a raw data set."""

import argparse
from typing import Any

from omfa_jax.cli.flags import PERSON_INDEX_TYPE, SEED_TYPE, float_between, parse_any_path_text

# data sets with a builder; synthetic data has the same layouts
DATASETS = "viton_hd, deepfashion_multimodal or dresscode"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a data set that does not support one raises an error."""
    parser.add_argument(
        "--clean",
        type=parse_any_path_text,
        metavar="FILE",
        help="list of photos to leave out (JSON or text)",
    )
    parser.add_argument(
        "--parse-labels",
        metavar="SET",
        help="label set of the parse maps, with viton_hd: cihp, lip or atr (default: cihp)",
    )
    parser.add_argument(
        "--split-shares",
        metavar=("TRAIN", "VAL", "TEST"),
        type=float_between(0, 1),
        nargs=3,
        help="shares of the splits, with deepfashion_multimodal (default: 0.965 0.01 0.025)",
    )
    parser.add_argument(
        "--split-seed",
        type=SEED_TYPE,
        help="seed of the splits, with deepfashion_multimodal (default: 0)",
    )
    parser.add_argument(
        "--person-index",
        type=PERSON_INDEX_TYPE,
        metavar="N",
        help="person of keypoints with several, counted from 0 (default: the largest)",
    )
    add_pairs_argument(parser)


def add_dataset_argument(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add `--dataset` of a command that reads a raw data set; `condition` begins its help."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"{condition}kind of data set: {DATASETS} (default: detected by its folders)",
    )


def add_pairs_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--pairs`."""
    parser.add_argument(
        "--pairs",
        action="extend",
        nargs="+",
        type=parse_pairs_text,
        metavar="[SPLIT=]FILE",
        help="lists of pairs with other names than the data set's, such as test=my_pairs.csv, with"
        " viton_hd or dresscode",
    )


def parse_pairs_text(text: str) -> str:
    """Return "FILE" or "SPLIT=FILE" with a checked path."""
    # imported only when it is used: it takes a second
    from omfa_jax.data.builders.raw_layouts import split_pairs_argument

    split, file = split_pairs_argument(text)
    path = parse_any_path_text(file)
    return path if split is None else f"{split}={path}"


def get_item_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the given flags as item options of the builders."""
    names = ("clean", "parse_labels", "split_shares", "split_seed", "person_index", "pairs")
    given = {name: getattr(options, name) for name in names}
    # only what was given: a builder refuses options that it does not have, and knows its defaults
    return {name: value for name, value in given.items() if value is not None}
