"""`omfa data fit`: fit body parameters to the 2D keypoints of a raw data set."""

import argparse
import logging
from collections.abc import Callable

from omfa_jax.cli.datasets import add_dataset_argument
from omfa_jax.cli.flags import BATCH_TYPE, PERSON_INDEX_TYPE, parse_any_path_text
from omfa_jax.core.errors import OmfaError

HELP = "fit SMPL-X bodies to the photos' 2D keypoints, without a pose network (SPLIT/smplx)"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data fit`."""
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
        "--person-index",
        type=PERSON_INDEX_TYPE,
        metavar="N",
        help="person of keypoints with several, counted from 0 (default: the largest);"
        " photos with a body are fitted again with --overwrite only",
    )
    parser.add_argument(
        "--smplx-model",
        type=parse_any_path_text,
        metavar="FILE",
        help="SMPL-X .npz (default: the free body)",
    )
    parser.add_argument("--batch-size", type=BATCH_TYPE, default=16, help="photos per batch")
    parser.add_argument("--overwrite", action="store_true", help="replace existing bodies")


def run(options: argparse.Namespace) -> None:
    """Fit the photos of all splits; raise an OmfaError only if none of them has a body."""
    from omfa_jax.body.body_model import load_body_model
    from omfa_jax.body.fit.fit_folder import PhotoRows, fit_folder
    from omfa_jax.body.fit.fitter import Fitter
    from omfa_jax.body.fit.keypoints import BODY_25, DEEPFASHION
    from omfa_jax.body.fit.photo_fitter import PhotoFitter
    from omfa_jax.body.landmarks import PersonLandmarks
    from omfa_jax.data.builders.keypoint_photos import KeypointPhoto, find_photos, read_photo_person

    warnings: list[str] = []
    folders = find_photos(
        options.raw,
        options.dataset,
        warnings,
        person_index=options.person_index,
        split=options.split,
    )
    for warning in warnings:
        log.warning(warning)
    # landmarks of clothes instead of joints
    has_landmarks = any(photo.has_landmarks for photos in folders.values() for photo in photos)
    known = DEEPFASHION if has_landmarks else BODY_25
    model = load_body_model(options.smplx_model)
    fitter, photo_fitter = Fitter(model, known), PhotoFitter(model)

    notes: dict[str, list[str]] = {}

    # called during the fit, where a damaged file fails its own photo and not the folder
    def reader(photo: KeypointPhoto) -> Callable:
        def read() -> PhotoRows | PersonLandmarks:
            size_px = photo.read_size_px()
            found = photo.read(size_px)
            person, doubts = read_photo_person(photo, found)
            for note in (*found.notes, *doubts):
                notes.setdefault(note, []).append(photo.name)
            return person or (found.rows, size_px)

        return read

    reports = []
    for folder, photos in folders.items():
        notes.clear()
        report = fit_folder(
            fitter,
            [(photo.name, reader(photo)) for photo in photos],
            folder,
            photo_fitter=photo_fitter,
            batch_size=options.batch_size,
            overwrite=options.overwrite,
            person_index=options.person_index,
        )
        for note, names in notes.items():
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            log.warning("%s: %d photos (%s): %s", folder.name, len(names), shown, note)
        log.info("%s: %s", folder.name, report)
        reports.append(report)
    if not any(report.fitted + report.kept for report in reports):
        raise OmfaError(f"{options.raw}: no fit was accepted, for the reasons listed above")
