"""The flags of commands that write records: shard size and runner."""

import argparse
from typing import Any

from omfa_jax.cli.flags import int_between
from omfa_jax.data.records.write_options import RUNNERS, SHARD_RECORDS


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that writes records."""
    parser.add_argument(
        "--shard-records",
        type=int_between(1, 10**7),
        default=SHARD_RECORDS,
        metavar="N",
        help="items per shard",
    )
    parser.add_argument(
        "--runner", default="local", help=f"what writes the shards: {' or '.join(RUNNERS)}"
    )
    parser.add_argument(
        "--beam-options",
        default="",
        metavar="TEXT",
        help="pipeline options of Apache Beam, see docs/records.md",
    )


def get_writing_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of those flags, as keywords of `build_records` and `write_latents`."""
    names = ("shard_records", "runner", "beam_options")
    return {name: getattr(options, name) for name in names}
