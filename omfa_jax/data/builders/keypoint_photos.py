"""Find the photos of a raw data set with their 2D keypoints, for each layout."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from omfa_jax.core.atomic_files import require_dir
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.images import MAX_PIXELS, TOO_LARGE_MESSAGE, get_exif_orientation
from omfa_jax.data.builders.face_box import read_keypoints
from omfa_jax.data.builders.landmark_files import read_dresscode_keypoints, read_landmarks
from omfa_jax.data.builders.raw_files import list_files_by_stem, list_first_nonempty_folder
from omfa_jax.data.builders.viton_hd import KEYPOINT_DIRS

# EXIF orientations that swap width and height
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class KeypointPhoto:
    """A photo: its name without suffix, its file, and a reader of its keypoints.

    `read((width_px, height_px))` returns (x px, y px, confidence) rows, None if the file has no
    person, or raises an OmfaError.
    """

    name: str
    path: Path
    read: Callable[[tuple[int, int]], Float[np.ndarray, "k 3"] | None]

    def read_size_px(self) -> tuple[int, int]:
        """Return (width, height) of the upright photo without decoding it; OmfaError if damaged."""
        try:
            with Image.open(self.path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                return (
                    (height, width) if get_exif_orientation(image) in _TURNED else (width, height)
                )
        except OSError as error:
            reason = error.strerror or "not an image, or damaged"
            raise OmfaError(f"photo {self.path}: {reason}") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise OmfaError(f"photo {self.path}: {TOO_LARGE_MESSAGE}") from None


def find_photos(
    raw_dir: str | os.PathLike, keypoints: str, warnings: list[str]
) -> dict[Path, list[KeypointPhoto]]:
    """Return {folder: photos in the order of names} of a raw data set.

    `keypoints`: "openpose" (VITON-HD: SPLIT/image and SPLIT/openpose_json), "deepfashion"
    (images/ and keypoints/keypoints_loc.txt) or "dresscode" (CATEGORY/images and
    CATEGORY/keypoints). Photos without keypoints are skipped and counted in `warnings`. Raises
    OmfaError for an unknown kind or a folder of another layout.
    """
    if keypoints not in KEYPOINT_LAYOUTS:
        raise make_unknown_name_error("kind of keypoints", keypoints, KEYPOINT_LAYOUTS)
    root = require_dir(raw_dir, "raw data set", "--raw")
    found = KEYPOINT_LAYOUTS[keypoints](root, warnings)
    if not any(found.values()):
        raise OmfaError(
            f"{root}: no photos with {keypoints} keypoints; change --raw or --keypoints"
        )
    return found


def _find_openpose(root: Path, warnings: list[str]) -> dict[Path, list[KeypointPhoto]]:
    found = {}
    for images in sorted(root.glob("*/image")):
        folder = images.parent
        files = list_first_nonempty_folder(folder, KEYPOINT_DIRS)
        files = {stem.removesuffix("_keypoints"): path for stem, path in files.items()}
        found[folder] = _pair_files(
            folder, list_files_by_stem(images), files, _read_openpose, warnings
        )
    return found


def _find_dresscode(root: Path, warnings: list[str]) -> dict[Path, list[KeypointPhoto]]:
    found = {}
    for images in sorted(root.glob("*/images")):
        folder = images.parent
        # N_0 is a person's photo, N_1 that of the garment, and N_2 holds the person's keypoints
        people = {
            stem: path for stem, path in list_files_by_stem(images).items() if stem.endswith("_0")
        }
        files = list_files_by_stem(folder / "keypoints").items()
        rows = {f"{stem[:-2]}_0": path for stem, path in files if stem.endswith("_2")}
        found[folder] = _pair_files(folder, people, rows, _read_dresscode, warnings)
    return found


def _find_deepfashion(root: Path, warnings: list[str]) -> dict[Path, list[KeypointPhoto]]:
    landmarks = read_landmarks(root / "keypoints", warnings)
    photos = list_files_by_stem(root / "images")
    return {root: _pair_files(root, photos, landmarks, lambda rows, _: rows, warnings)}


KEYPOINT_LAYOUTS: Mapping[str, Callable[[Path, list[str]], dict[Path, list[KeypointPhoto]]]] = {
    "openpose": _find_openpose,
    "deepfashion": _find_deepfashion,
    "dresscode": _find_dresscode,
}


def _read_openpose(path: Path, _: tuple[int, int]) -> Float[np.ndarray, "k 3"] | None:
    return read_keypoints(path)


def _read_dresscode(path: Path, size_px: tuple[int, int]) -> Float[np.ndarray, "k 3"]:
    return read_dresscode_keypoints(path, size_px[1], size_px[0])


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
        return lambda size_px: read(keypoints[name], size_px)

    return [
        KeypointPhoto(name, photos[name], reader(name))
        for name in sorted(photos)
        if name in keypoints
    ]
