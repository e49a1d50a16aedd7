"""Find the photos of a raw data set with their 2D keypoints, for each layout."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from omfa_jax.body.keypoints.keypoint_reader import (
    PhotoKeypoints,
    read_keypoints,
    require_photo_size,
)
from omfa_jax.core.atomic_files import require_dir
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.images import read_upright_size
from omfa_jax.data.builders.landmark_files import read_landmarks
from omfa_jax.data.builders.raw_files import list_files_by_stem, list_first_nonempty_folder
from omfa_jax.data.builders.viton_hd import KEYPOINT_DIRS


@dataclass(frozen=True)
class KeypointPhoto:
    """A photo: its name without suffix, its file, and a reader of its keypoints.

    `read((width_px, height_px))` returns the keypoints, or raises an OmfaError: there is no person,
    they are of another image, or the file is of no known form.
    """

    name: str
    path: Path
    read: Callable[[tuple[int, int]], PhotoKeypoints]

    def read_size_px(self) -> tuple[int, int]:
        """Return (width, height) of the upright photo without decoding it; OmfaError if damaged."""
        return read_upright_size(self.path, "photo")


def find_photos(
    raw_dir: str | os.PathLike,
    keypoints: str,
    warnings: list[str],
    *,
    person_index: int | None = None,
) -> dict[Path, list[KeypointPhoto]]:
    """Return {folder: photos in the order of names} of a raw data set.

    `keypoints`: "openpose" (VITON-HD: SPLIT/image and SPLIT/openpose_json), "deepfashion"
    (images/ and keypoints/keypoints_loc.txt) or "dresscode" (CATEGORY/images and
    CATEGORY/keypoints). Photos without keypoints are skipped and counted in `warnings`.
    `person_index`: the person of files with several, None for the largest. Raises OmfaError for an
    unknown kind or a folder of another layout.
    """
    if keypoints not in KEYPOINT_LAYOUTS:
        raise make_unknown_name_error("kind of keypoints", keypoints, KEYPOINT_LAYOUTS)
    if person_index is not None and keypoints == "deepfashion":
        raise OmfaError("--person-index does not apply to --keypoints deepfashion; remove it")
    root = require_dir(raw_dir, "raw data set", "--raw")
    found = KEYPOINT_LAYOUTS[keypoints](root, warnings, person_index)
    if not any(found.values()):
        raise OmfaError(
            f"{root}: no photos with {keypoints} keypoints; change --raw or --keypoints"
        )
    return found


def _find_openpose(
    root: Path, warnings: list[str], person_index: int | None
) -> dict[Path, list[KeypointPhoto]]:
    found, read = {}, partial(_read_file, person_index)
    for images in sorted(root.glob("*/image")):
        folder = images.parent
        files = list_first_nonempty_folder(folder, KEYPOINT_DIRS)
        files = {stem.removesuffix("_keypoints"): path for stem, path in files.items()}
        found[folder] = _pair_files(folder, list_files_by_stem(images), files, read, warnings)
    return found


def _find_dresscode(
    root: Path, warnings: list[str], person_index: int | None
) -> dict[Path, list[KeypointPhoto]]:
    found, read = {}, partial(_read_file, person_index)
    for images in sorted(root.glob("*/images")):
        folder = images.parent
        # N_0 is a person's photo, N_1 that of the garment, and N_2 holds the person's keypoints
        people = {
            stem: path for stem, path in list_files_by_stem(images).items() if stem.endswith("_0")
        }
        files = list_files_by_stem(folder / "keypoints").items()
        rows = {f"{stem[:-2]}_0": path for stem, path in files if stem.endswith("_2")}
        found[folder] = _pair_files(folder, people, rows, read, warnings)
    return found


def _find_deepfashion(
    root: Path, warnings: list[str], _: int | None
) -> dict[Path, list[KeypointPhoto]]:
    landmarks = read_landmarks(root / "keypoints", warnings)
    photos = list_files_by_stem(root / "images")
    return {root: _pair_files(root, photos, landmarks, _check_landmarks, warnings)}


FindPhotosFn = Callable[[Path, list[str], int | None], dict[Path, list[KeypointPhoto]]]
KEYPOINT_LAYOUTS: Mapping[str, FindPhotosFn] = {
    "openpose": _find_openpose,
    "deepfashion": _find_deepfashion,
    "dresscode": _find_dresscode,
}


def _read_file(
    person_index: int | None, path: Path, photo: Path, size_px: tuple[int, int]
) -> PhotoKeypoints:
    return read_keypoints(path, size_px, photo=photo, person_index=person_index)


def _check_landmarks(
    rows: Float32[np.ndarray, "21 3"], _: Path, size_px: tuple[int, int]
) -> PhotoKeypoints:
    require_photo_size(rows, size_px)
    return PhotoKeypoints(rows)


def _pair_files(
    folder: Path,
    photos: Mapping[str, Path],
    keypoints: Mapping,
    read: Callable,
    warnings: list[str],
) -> list[KeypointPhoto]:
    lacking: Sequence[str] = [name for name in photos if name not in keypoints]
    if lacking:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        warnings.append(f"{folder.name}: {len(lacking)} photos without keypoints ({shown})")

    # a function per name: a lambda in the loop would see the last name only
    def reader(name: str) -> Callable:
        return lambda size_px: read(keypoints[name], photos[name], size_px)

    return [
        KeypointPhoto(name, photos[name], reader(name))
        for name in sorted(photos)
        if name in keypoints
    ]
