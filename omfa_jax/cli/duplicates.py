"""`omfa data duplicates`: photos that are in a raw data set more than once."""

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
        "--out", required=True, type=path_text, metavar="FILE.json", help="for build's --clean"
    )
    parser.add_argument("--dataset", help="default: told by the folder's layout")
    parser.add_argument(
        "--distance",
        type=whole(0, 64),
        default=10,
        help="differing bits of 64 at which photos are compared",
    )
    parser.add_argument("--processes", type=WORKERS, default=os.cpu_count() or 1)


def run(options: argparse.Namespace) -> None:
    """Find, write the list, and say what was found."""
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
