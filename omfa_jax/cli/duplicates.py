"""`omfa data duplicates`: find duplicate photos in a raw data set."""

import argparse
import logging
import os

from omfa_jax.cli.flags import WORKERS, path_text, whole

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--raw", required=True, type=path_text, metavar="DIR", help="raw data set folder"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=path_text,
        metavar="FILE.json",
        help="list to write, for --clean",
    )
    parser.add_argument("--dataset", help="name of the data set (default: detect by the layout)")
    parser.add_argument(
        "--distance",
        type=whole(0, 64),
        default=10,
        help="largest hash distance of candidates, in bits of 64 (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=WORKERS,
        default=os.cpu_count() or 1,
        help="number of worker processes (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Find duplicates, write the list, and log a summary."""
    from omfa_jax.core.files import require_writable_file
    from omfa_jax.data.check_raw import find_in_folder
    from omfa_jax.data.clean import write_list
    from omfa_jax.data.duplicates import summary

    out = require_writable_file(options.out, "--out")
    report = find_in_folder(
        options.raw,
        dataset=options.dataset,
        max_distance_bits=options.distance,
        processes=options.processes,
    )
    write_list(out, report)
    log.info("%s\nwrote %s", summary(report), options.out)
