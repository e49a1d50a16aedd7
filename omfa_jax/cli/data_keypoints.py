"""`omfa data keypoints`: find the people's landmarks in the photos of a raw data set."""

import argparse
import logging
import os

from omfa_jax.cli.datasets import add_dataset_argument
from omfa_jax.cli.flags import WORKERS_TYPE, parse_any_path_text
from omfa_jax.core.errors import OmfaError

HELP = "find the people's 33 landmarks in the photos of a raw data set (SPLIT/openpose_json)"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data keypoints`."""
    parser.add_argument(
        "--raw", required=True, type=parse_any_path_text, metavar="DIR", help="raw data set folder"
    )
    add_dataset_argument(parser)
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="only this folder: a split of viton_hd, a category of dresscode (default: all)",
    )
    parser.add_argument(
        "--processes",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="number of worker processes",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing keypoints, also those of other tools",
    )


def run(options: argparse.Namespace) -> None:
    """Find the landmarks in all photos; OmfaError only if no photo of any folder has keypoints."""
    from omfa_jax.body.landmarks.landmark_folder import write_landmarks
    from omfa_jax.data.builders.keypoint_photos import list_landmark_jobs

    folders = list_landmark_jobs(options.raw, options.dataset, split=options.split)
    reports = []
    for folder, jobs in folders.items():
        chosen = {"processes": options.processes, "overwrite": options.overwrite}
        report = write_landmarks(folder, jobs, **chosen)
        log.info("%s: %s", folder.name, report)
        reports.append(report)
    if not any(report.written + report.kept for report in reports):
        raise OmfaError(f"{options.raw}: no person in any photo, for the reasons listed above")
