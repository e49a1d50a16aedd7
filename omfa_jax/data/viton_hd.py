"""VITON-HD (Choi et al., CVPR 2021), and folders in its layout, as records.

    <root>/{train,val,test}_pairs.txt        "person.jpg garment.jpg" a line
    <root>/{train,val,test}/image, cloth     photos; a person's own garment has the person's name
        image-parse-v3 | image-parse         CIHP label maps
        openpose_json | openpose-json        keypoints
        pose                                 pose maps (not part of VITON-HD; made from SMPL-X)

The second name of a pair is a garment that the person does not wear. It serves evaluation; in
training it is ignored, as everybody does.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import require_dir
from omfa_jax.data import faces
from omfa_jax.data import labels as parse
from omfa_jax.data.builder import RecordsBuilder
from omfa_jax.data.schema import Record

SPLITS = ("train", "val", "test")
PARSE_DIRS = ("image-parse-v3", "image-parse")
KEYPOINT_DIRS = ("openpose_json", "openpose-json")

MIN_WORN_AREA = 0.005
WORN_MARGIN = 0.05


@dataclass(frozen=True)
class VitonItem:
    """The files of one person; None for those that are not there."""

    key: str
    split: str
    person: Path
    garment: Path | None
    parse: Path | None
    keypoints: Path | None
    pose: Path | None
    unpaired_key: str
    unpaired: Path | None


class VitonHD(RecordsBuilder):
    """TFDS builder of VITON-HD's folder layout; see the module's text and `RecordsBuilder`."""

    name = "viton_hd"

    @staticmethod
    def raw_items(raw_dir: str, warnings: list[str]) -> Mapping[str, Sequence[VitonItem]]:
        """Return {split: items} of the splits that are there; what is odd goes to `warnings`."""
        root = require_dir(raw_dir, "raw data set", "--raw")
        splits = {}
        for split in SPLITS:
            if (root / split / "image").is_dir():
                splits[split] = _items(root, split, warnings)
            elif (root / f"{split}_pairs.txt").is_file():
                warnings.append(f"{split}: {split}_pairs.txt is there but {split}/image is not")
        if not splits:
            names = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
            found = ", ".join(names[:8]) or "nothing"
            raise OmfaError(f"{root}: expected train/image, val/image or test/image, found {found}")
        return splits

    @staticmethod
    def read(item: VitonItem) -> tuple[Record, Sequence[str]]:
        """Return the item's record and its flaws; OmfaError if photo or garment cannot be had."""
        flaws: list[str] = []
        person, photo = stored_picture(item.person, "person photo")
        height_px, width_px = photo.shape[:2]
        labels = _optional(_labels, item.parse, "parse map", flaws)
        if item.garment is not None:
            garment, _ = stored_picture(item.garment, "garment")
        else:
            garment = images.encode_jpeg(_worn(photo, labels, item))
            flaws.append("no in-shop garment in cloth/; the worn one is cut out of the photo")
        keypoints = _optional(faces.read_keypoints, item.keypoints, "keypoints", flaws)
        box = faces.face_box(keypoints, labels, height_px, width_px)
        if box is None:
            flaws.append("no face found; its picture is white")
        pose = _optional(_picture_bytes, item.pose, "pose map", flaws)
        unpaired = _optional(_picture_bytes, item.unpaired, "unpaired garment", flaws)
        if item.unpaired_key and item.unpaired is None:
            flaws.append("the unpaired garment's file is missing in cloth/ (see the pairs file)")
        record = Record(
            key=item.key,
            split=item.split,
            person=person,
            height_px=height_px,
            width_px=width_px,
            garment=garment,
            garment_source="in_shop" if item.garment else "worn",
            category="" if labels is None else parse.category(labels),
            has_face=box is not None,
            face_box_px=box or (0.0, 0.0, 0.0, 0.0),
            has_pose=pose is not None,
            pose=pose or b"",
            unpaired_garment_key=item.unpaired_key if unpaired else "",
            unpaired_garment=unpaired or b"",
        )
        return record, flaws


def stored_picture(path: Path, what: str) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """Return the bytes to store for a picture, and its pixels.

    A plain RGB JPEG or PNG that stands upright is stored as it is; anything else is encoded anew.
    """
    rgb = images.read_rgb(path, what)
    encoded = path.read_bytes()
    image = images.open_image(encoded, what)
    plain = image.format in ("JPEG", "PNG") and image.mode == "RGB"
    if plain and not image.has_transparency_data and images.exif_orientation(image) == 1:
        return encoded, rgb
    return images.encode_jpeg(rgb), rgb


def worn_garment(
    photo: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h2 w2"]
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the garment cut out of the photo on white, filling a frame of the photo's size.

    Its bounding box plus 5% of the box's longer side is letter-boxed. None if the garment labels
    cover less than 0.5% of the photo.
    """
    height, width = photo.shape[:2]
    if labels.shape != (height, width):
        sized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        labels = np.array(sized)
    worn = parse.mask(labels, parse.GARMENT)
    if worn.mean() < MIN_WORN_AREA:
        return None
    rows, columns = np.flatnonzero(worn.any(1)), np.flatnonzero(worn.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cut = np.where(worn[..., None], photo, np.uint8(255))[top:bottom, left:right]
    margin = round(WORN_MARGIN * max(cut.shape[:2]))
    framed = np.pad(cut, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    return images.letterbox(framed, height, width)


def _worn(photo: np.ndarray, labels: np.ndarray | None, item: VitonItem) -> np.ndarray:
    if labels is None:
        raise OmfaError("no in-shop garment, and no parse map to cut the worn one out with")
    worn = worn_garment(photo, labels)
    if worn is None:
        raise OmfaError(f"no in-shop garment, and {item.parse} shows no worn one (ids 5, 6, 7)")
    return worn


def _optional(read, path: Path | None, what: str, flaws: list[str]):
    """Return what `read` makes of the file, or None (a flaw) if it is missing or damaged."""
    if path is None:
        if what != "unpaired garment":
            flaws.append(f"no {what}")
        return None
    try:
        return read(path)
    except OmfaError:
        flaws.append(f"damaged {what}")
        return None


def _labels(path: Path) -> UInt8[np.ndarray, "h w"]:
    return images.read_labels(path, "parse map")


def _picture_bytes(path: Path) -> bytes:
    return stored_picture(path, "picture")[0]


def _items(root: Path, split: str, warnings: list[str]) -> list[VitonItem]:
    folder = root / split
    people, garments = _by_stem(folder / "image"), _by_stem(folder / "cloth")
    maps = next((found for name in PARSE_DIRS if (found := _by_stem(folder / name))), {})
    found = next((found for name in KEYPOINT_DIRS if (found := _by_stem(folder / name))), {})
    keypoints = {stem.removesuffix("_keypoints"): path for stem, path in found.items()}
    poses = _by_stem(folder / "pose")
    items, seen = [], set()
    for person, garment in _pairs(root, split, people, warnings):
        key, other = Path(person).stem, Path(garment).stem
        if key in seen:
            warnings.append(
                f"{split}: {person} is named twice in {split}_pairs.txt; first one kept"
            )
            continue
        seen.add(key)
        unpaired = other if split != "train" and other != key else ""
        items.append(
            VitonItem(
                key=key,
                split=split,
                person=people.get(key, folder / "image" / person),
                garment=garments.get(key),
                parse=maps.get(key),
                keypoints=keypoints.get(key),
                pose=poses.get(key),
                unpaired_key=unpaired,
                unpaired=garments.get(unpaired),
            )
        )
    return items


def _pairs(
    root: Path, split: str, people: Mapping[str, Path], warnings: list[str]
) -> list[tuple[str, str]]:
    path = root / f"{split}_pairs.txt"
    if not path.is_file():
        warnings.append(f"{split}: no {path.name}; every photo in {split}/image is taken")
        return [(photo.name, photo.name) for _, photo in sorted(people.items())]
    pairs = []
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
        names = line.split()
        if len(names) == 2:
            pairs.append((names[0], names[1]))
        elif names:
            warnings.append(f"{path.name} line {number}: expected two names, found {len(names)}")
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    # macOS archives carry "._name" twins that are not pictures
    names = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    return {Path(name).stem: folder / name for name in sorted(names)}
