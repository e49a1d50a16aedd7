"""Find the photos of a raw data set, and their 2D keypoints or where those belong."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32

from omfa_jax.body.keypoints.keypoint_reader import (
    PhotoKeypoints,
    read_keypoints,
    require_photo_size,
)
from omfa_jax.body.landmarks import PersonLandmarks
from omfa_jax.body.landmarks.landmark_folder import LandmarkJob
from omfa_jax.body.landmarks.landmark_json import is_landmark_file, read_person
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.file_states import list_folders
from omfa_jax.core.images import read_rgb, read_upright_size, write_image
from omfa_jax.core.path_checks import require_any_dir, require_any_writable_file
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.landmark_files import read_landmarks
from omfa_jax.data.builders.raw_files import list_files_by_stem, list_first_nonempty_folder
from omfa_jax.data.builders.raw_layouts import resolve_dataset
from omfa_jax.data.builders.viton_hd import KEYPOINT_DIRS
from omfa_jax.data.records.keypoint_sheet import draw_keypoints, make_keypoint_sheet

log = logging.getLogger(__name__)

NO_MASK = "landmarks that are not found in the photo again; fitted without its outline"


@dataclass(frozen=True)
class KeypointPhoto:
    """A photo: its name without suffix, its file, and a reader of its keypoints.

    `has_landmarks`: the keypoints are DeepFashion's 21 landmarks, not OpenPose's BODY_25.
    `source`: the file of the keypoints, None for those of a list of many photos.

    `read((width_px, height_px))` returns the keypoints, or raises an OmfaError: there is no person,
    they are of another image, or the file is of no known form.
    """

    name: str
    path: AnyPath
    read: Callable[[tuple[int, int]], PhotoKeypoints]
    has_landmarks: bool = False
    source: AnyPath | None = None

    def read_size_px(self) -> tuple[int, int]:
        """Return (width, height) of the upright photo without decoding it; OmfaError if damaged."""
        return read_upright_size(self.path, "photo")


def find_photos(
    raw_dir: str | os.PathLike,
    dataset: str | None,
    warnings: list[str],
    *,
    person_index: int | None = None,
    split: str | None = None,
) -> dict[AnyPath, list[KeypointPhoto]]:
    """Return {folder: photos in the order of names} of a raw data set.

    `dataset`: "viton_hd" (SPLIT/image and SPLIT/openpose_json), "deepfashion_multimodal" (images/
    and keypoints/keypoints_loc.txt) or "dresscode" (CATEGORY/images and CATEGORY/keypoints); None
    detects it by the layout. Photos without keypoints are skipped and counted in `warnings`.
    `person_index`: the person of files with several, None for the largest. `split`: the only folder
    to look into, a split of VITON-HD or a category of DressCode. Raises OmfaError for an unknown
    name, a folder of another layout, or a split that it does not have.
    """
    root = require_any_dir(raw_dir, "raw data set", "--raw")
    dataset = resolve_dataset(root, dataset, KEYPOINT_LAYOUTS)
    for flag, value in {"--person-index": person_index, "--split": split}.items():
        if value is not None and dataset == "deepfashion_multimodal":
            raise OmfaError(f"{flag} does not apply to --dataset {dataset}; remove it")
    found = KEYPOINT_LAYOUTS[dataset](root, split, warnings, person_index)
    if not any(found.values()):
        raise OmfaError(
            f"{root}: no photos with keypoints in the layout of {dataset}; change --raw or"
            " --dataset, or find the keypoints with omfa data keypoints --raw"
        )
    return found


def read_photo_person(
    photo: KeypointPhoto, found: PhotoKeypoints
) -> tuple[PersonLandmarks | None, tuple[str, ...]]:
    """Return the landmarks of the person of `found`, with a mask, and notes as those of `found`.

    None if the keypoints are not those of `omfa data keypoints`.
    """
    if photo.source is None or not is_landmark_file(photo.source):
        return None, ()
    person, has_mask = read_person(photo.source, found.index, read_rgb(photo.path, "photo"))
    return person, () if has_mask else (NO_MASK,)


def list_landmark_jobs(
    raw_dir: str | os.PathLike, dataset: str | None, *, split: str | None = None
) -> dict[AnyPath, list[LandmarkJob]]:
    """Return {folder: every photo of a person, with the file for its keypoints} of a raw data set.

    The file is the one that `find_photos` pairs with the photo, or would pair. Arguments and errors
    are those of `find_photos`; DeepFashion-MultiModal, which has its landmarks in one list, is
    refused.
    """
    root = require_any_dir(raw_dir, "raw data set", "--raw")
    dataset = resolve_dataset(root, dataset, KEYPOINT_LAYOUTS)
    if dataset == "deepfashion_multimodal":
        raise OmfaError(
            f"{root}: deepfashion_multimodal has 21 landmarks of each photo in keypoints/, which"
            " omfa data fit reads; expected the layout of viton_hd or dresscode"
        )
    images, list_jobs = {
        "viton_hd": ("image", _list_openpose_jobs),
        "dresscode": ("images", _list_dresscode_jobs),
    }[dataset]
    found = {folder: list_jobs(folder) for folder in _list_folders(root, images, split)}
    if not any(found.values()):
        raise OmfaError(f"{root}: no photos in the layout of {dataset}; change --raw or --dataset")
    return found


def write_keypoint_sheet(
    raw_dir: str | os.PathLike,
    out_path: str | os.PathLike,
    *,
    dataset: str | None = None,
    split: str | None = None,
    count: int = 8,
) -> str:
    """Write the first `count` photos of each folder with their keypoints; return what was drawn.

    The file is a PNG or JPEG. A photo whose keypoints cannot be used is drawn without them, with
    the reason in its caption and a warning. Arguments and errors are those of `find_photos`.
    """
    out = require_any_writable_file(out_path, "--out")
    warnings: list[str] = []
    folders = find_photos(raw_dir, dataset, warnings, split=split)
    for warning in warnings:
        log.warning(warning)
    cells, unusable = [], 0
    for folder, photos in folders.items():
        for photo in photos[:count]:
            image, caption = None, f"{folder.name}/{photo.name}"
            try:
                image = read_rgb(photo.path, "photo")
                found = photo.read((image.shape[1], image.shape[0]))
                image = draw_keypoints(image, found.rows)
            except OmfaError as error:
                unusable += 1
                caption = f"{photo.name}: unusable"
                log.warning("%s", error)
            cells.append((caption, image))
    write_image(out, make_keypoint_sheet(cells))
    total = sum(map(len, folders.values()))
    return f": {len(cells)} of {total} photos with keypoints, {unusable} of them unusable"


def _list_openpose_jobs(folder: AnyPath) -> list[LandmarkJob]:
    files = list_first_nonempty_folder(folder, KEYPOINT_DIRS)
    present = {stem.removesuffix("_keypoints"): path for stem, path in files.items()}
    # beside those of other photos: only the first folder that is not empty is read
    place = next((path.parent for path in files.values()), folder / KEYPOINT_DIRS[0])
    return [
        LandmarkJob(name, photo, present.get(name, place / f"{name}_keypoints.json"))
        for name, photo in sorted(list_files_by_stem(folder / "image").items())
    ]


def _list_dresscode_jobs(folder: AnyPath) -> list[LandmarkJob]:
    present = list_files_by_stem(folder / "keypoints")
    jobs = []
    for name, photo in sorted(list_files_by_stem(folder / "images").items()):
        stem = f"{name[:-2]}_2"
        if name.endswith("_0"):
            target = present.get(stem, folder / "keypoints" / f"{stem}.json")
            jobs.append(LandmarkJob(name, photo, target))
    return jobs


def _list_folders(root: AnyPath, images: str, split: str | None) -> list[AnyPath]:
    """Return the folders of `root` with an `images` folder: all, or the one called `split`."""
    folders = [folder for folder in list_folders(root) if (folder / images).is_dir()]
    if split is None:
        return folders
    names = [folder.name for folder in folders]
    if split not in names:
        raise make_unknown_name_error(f"split of {root} (--split)", split, names)
    return [root / split]


def _find_openpose(
    root: AnyPath, split: str | None, warnings: list[str], person_index: int | None
) -> dict[AnyPath, list[KeypointPhoto]]:
    found, read = {}, partial(_read_file, person_index)
    for folder in _list_folders(root, "image", split):
        files = list_first_nonempty_folder(folder, KEYPOINT_DIRS)
        files = {stem.removesuffix("_keypoints"): path for stem, path in files.items()}
        found[folder] = _pair_files(
            folder, list_files_by_stem(folder / "image"), files, read, warnings
        )
    return found


def _find_dresscode(
    root: AnyPath, split: str | None, warnings: list[str], person_index: int | None
) -> dict[AnyPath, list[KeypointPhoto]]:
    found, read = {}, partial(_read_file, person_index)
    for folder in _list_folders(root, "images", split):
        # N_0 is a person's photo, N_1 that of the garment, and N_2 holds the person's keypoints
        people = {
            stem: path
            for stem, path in list_files_by_stem(folder / "images").items()
            if stem.endswith("_0")
        }
        files = list_files_by_stem(folder / "keypoints").items()
        rows = {f"{stem[:-2]}_0": path for stem, path in files if stem.endswith("_2")}
        found[folder] = _pair_files(folder, people, rows, read, warnings)
    return found


def _find_deepfashion(
    root: AnyPath, _split: str | None, warnings: list[str], _index: int | None
) -> dict[AnyPath, list[KeypointPhoto]]:
    landmarks = read_landmarks(root / "keypoints", warnings)
    photos = list_files_by_stem(root / "images")
    return {root: _pair_files(root, photos, landmarks, _check_landmarks, warnings)}


FindPhotosFn = Callable[
    [AnyPath, str | None, list[str], int | None], dict[AnyPath, list[KeypointPhoto]]
]
KEYPOINT_LAYOUTS: Mapping[str, FindPhotosFn] = {
    "viton_hd": _find_openpose,
    "deepfashion_multimodal": _find_deepfashion,
    "dresscode": _find_dresscode,
}


def _read_file(
    person_index: int | None, path: AnyPath, photo: AnyPath, size_px: tuple[int, int]
) -> PhotoKeypoints:
    return read_keypoints(path, size_px, photo=photo, person_index=person_index)


def _check_landmarks(
    rows: Float32[np.ndarray, "21 3"], _: AnyPath, size_px: tuple[int, int]
) -> PhotoKeypoints:
    require_photo_size(rows, size_px)
    return PhotoKeypoints(rows)


def _pair_files(
    folder: AnyPath,
    photos: Mapping[str, AnyPath],
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
        KeypointPhoto(
            name,
            photos[name],
            reader(name),
            has_landmarks=read is _check_landmarks,
            source=keypoints[name] if isinstance(keypoints[name], AnyPath) else None,
        )
        for name in sorted(photos)
        if name in keypoints
    ]
