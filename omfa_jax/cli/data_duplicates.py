"""`omfa data duplicates`: find duplicate photos in a raw data set."""

import argparse
import logging
import os

from omfa_jax.cli.datasets import add_dataset_argument, add_pairs_argument
from omfa_jax.cli.flags import WORKERS_TYPE, make_rule_type, parse_any_path_text
from omfa_jax.data.checks.photo_duplicates import DISTANCE_RULE, MAX_DISTANCE_BITS

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--raw", required=True, type=parse_any_path_text, metavar="DIR", help="raw data set folder"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=parse_any_path_text,
        metavar="FILE.json",
        help="list to write, for --clean",
    )
    add_dataset_argument(parser)
    add_pairs_argument(parser)
    parser.add_argument(
        "--distance",
        type=make_rule_type(DISTANCE_RULE),
        default=MAX_DISTANCE_BITS,
        help="largest hash distance of candidates, 0 to 32 of 64 bits",
    )
    parser.add_argument(
        "--processes",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="number of worker processes",
    )


def run(options: argparse.Namespace) -> None:
    """Find duplicates, write the list, and log a summary."""
    from omfa_jax.core.path_checks import require_any_writable_file
    from omfa_jax.data.builders.check_raw import find_raw_duplicates
    from omfa_jax.data.builders.exclusion_list import write_exclusion_list
    from omfa_jax.data.checks.photo_duplicates import format_duplicate_report

    # before the search, which reads every photo
    out = require_any_writable_file(options.out, "--out")
    report = find_raw_duplicates(
        options.raw,
        dataset=options.dataset,
        max_distance_bits=options.distance,
        processes=options.processes,
        pairs=options.pairs,
    )
    write_exclusion_list(out, report)
    log.info("%s\nwrote %s", format_duplicate_report(report), options.out)
