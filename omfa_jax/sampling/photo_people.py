"""A person found in a photo that has no keypoints: their landmarks, rows and fitted body."""

import functools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.keypoints.joint_orders import BLAZEPOSE_33, to_body_25
from omfa_jax.body.keypoints.keypoint_reader import PhotoKeypoints
from omfa_jax.body.landmarks import PersonLandmarks, find_people, find_person
from omfa_jax.body.landmarks.landmark_json import is_landmark_file, read_person
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.data.builders.keypoint_photos import NO_MASK
from omfa_jax.sampling.photo_files import PersonFiles
from omfa_jax.sampling.pose_sources import FITTED, ONE_FIT, PosedBodies, fit_body, get_body_model

if TYPE_CHECKING:
    from omfa_jax.body.fit.photo_fitter import PhotoFitter

log = logging.getLogger(__name__)

Photo = UInt8[np.ndarray, "h w 3"]
# landmarks of the face: those of people who look away are guessed
FACE = slice(0, 11)
MIN_VISIBLE = 0.5
# Head and shoulders of people who are seen from the front are at least 0.8 sure. Of photos of
# garments alone one in thirteen is taken for a person, with a shoulder at 0.4.
SHOULDERS, MIN_WORN = slice(11, 13), 0.6


def find_photo_person(photo: Photo, name: str, *, needed: str = "") -> PersonLandmarks | None:
    """Return the person of a photo without keypoints, the largest of several, with a line about it.

    `needed` says what to give instead, for the OmfaError if nobody is found; without it that is a
    warning, and None.
    """
    try:
        person = find_person(photo, name)
    except OmfaError as error:
        if needed:
            raise OmfaError(f"{error}; or {needed}") from None
        log.warning("%s", error)
        return None
    log.info("no keypoints beside %s: found in the photo (score %.2f)", name, person.score)
    return person


def make_photo_rows(person: PersonLandmarks) -> Float[np.ndarray, "25 3"]:
    """Return a person's landmarks as (x px, y px, confidence) in BODY_25's order.

    Those of a face that is not seen have no confidence.
    """
    confidence = person.confidence.copy()
    if measure_face(person) < MIN_VISIBLE:
        confidence[FACE] = 0
    rows = np.concatenate([person.points_px, confidence[:, None]], axis=1)
    return to_body_25(dict(zip(BLAZEPOSE_33, rows, strict=True)))


def fit_photo_body(
    person: PersonLandmarks, smplx_model: str | None, name: str, instead: str
) -> PosedBodies:
    """Return the body fitted to a person's landmarks and mask.

    Raises OmfaError with the reason and `instead`, what to do, if too little of the body is seen
    or the fit is rejected.
    """
    from omfa_jax.body.fit.fit_quality import find_confident_keypoints, find_missing_parts
    from omfa_jax.body.fit.keypoints import BLAZEPOSE
    from omfa_jax.body.fit.photo_fitter import make_rows

    size_px = np.array(person.mask.shape[::-1], np.float64)
    seen = find_confident_keypoints(BLAZEPOSE, make_rows(person), size_px)
    # known before the fit is compiled, which takes longer than the fit
    if missing := find_missing_parts(BLAZEPOSE, seen):
        raise OmfaError(
            f"{name}: only a part of the body is seen ({missing}): give a photo from head to hips"
            f" or more, or {instead}"
        )
    log.info("%s: fitting the body (compiling the first fit takes up to a minute)", name)
    with ONE_FIT:
        fitter = _get_photo_fitter(smplx_model)
        (fit,) = fitter([person])
    if not fit.report.accepted:
        raise OmfaError(
            f"{name}: the body fitted to the photo is rejected: {fit.report.reason}; give a photo"
            f" in which the whole person is seen, or {instead}"
        )
    log.info("%s: median error of the fit %.1f px", name, fit.report.median_px)
    return PosedBodies([fit.params], fit.camera, fitter.model, FITTED, "photo")


def fit_file_body(
    files: PersonFiles, found: PhotoKeypoints, photo: Photo, smplx_model: str | None
) -> PosedBodies | None:
    """Return the body fitted to the keypoints `found` in a person's file, as `omfa data fit` does.

    Of landmarks of `omfa data keypoints` depths and mask are used, too. If the fit is refused, the
    reason is logged and there is no body. Raises OmfaError if such a file is damaged.
    """
    assert files.keypoints is not None, "something was found in it"
    path = to_path(files.keypoints)
    if not is_landmark_file(path):
        return fit_body(found.rows, photo.shape[:2], smplx_model, str(path))
    person, has_mask = read_person(path, found.index, photo)
    if not has_mask:
        log.warning("%s: %s", path, NO_MASK)
    try:
        body = fit_photo_body(person, smplx_model, str(path), f"{files.prefix}pose FILE")
    except OmfaError as error:
        log.warning("no body from these keypoints: %s", error)
        return None
    return replace(body, fitted_to="keypoints")


def warn_of_worn_garment(photo: Photo, name: str) -> None:
    """Log a warning if a garment's photo shows a person."""
    people = [found for found in find_people(photo) if measure_worn(found) >= MIN_WORN]
    if people:
        log.warning(
            "%s shows a person (score %.2f), but the model was trained on garments alone: take the"
            " garment off first with --task try_off, or use --task transfer",
            *(name, people[0].score),
        )


def measure_face(person: PersonLandmarks) -> float:
    """Return how surely the face is seen, 0 to 1; 0 from behind."""
    return 0.0 if person.looks_away else float(np.median(person.confidence[FACE]))


def measure_worn(person: PersonLandmarks) -> float:
    """Return how surely somebody wears what is in a photo, 0 to 1: the head and both shoulders."""
    sure = person.confidence
    return float(min(np.median(sure[FACE]), sure[SHOULDERS].min()))


@functools.lru_cache(maxsize=1)
def _get_photo_fitter(smplx_model: str | None) -> "PhotoFitter":
    from omfa_jax.body.fit.photo_fitter import PhotoFitter

    return PhotoFitter(get_body_model(smplx_model))
