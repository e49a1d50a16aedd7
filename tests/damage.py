"""Ways to damage files of a raw data set, and what a build must say of each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SKIPPED, WARNED = "skipped", "warned"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def other_aspect(path: Path) -> None:
    with Image.open(path) as image:
        turned = image.rotate(90, expand=True)
    turned.save(path)


def foreign_ids(path: Path) -> None:
    with Image.open(path) as image:
        labels = np.array(image)
    Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(path)


def three_channels(path: Path) -> None:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    rgb.save(path)


def bad_name(path: Path) -> None:
    path.rename(path.with_name(f"IMG {path.name[-24:]}"))


def unlink(path: Path) -> None:
    path.unlink()


# way: (which file of the item, what is done to it, what a build does with the item, word told)
Way = tuple[str, Callable[[Path], None], str, str]
PHOTO_WAYS: dict[str, Way] = {
    "truncated photo": ("person", truncate, SKIPPED, "damaged"),
    "empty photo": ("person", empty, SKIPPED, "empty"),
    "photo is a web page": ("person", text, SKIPPED, "not an image"),
    "photo of one pixel": ("person", one_pixel, SKIPPED, "too small"),
}
MAP_WAYS: dict[str, Way] = {
    "truncated map": ("parse", truncate, WARNED, "damaged"),
    "empty map": ("parse", empty, WARNED, "damaged"),
    "map of another aspect": ("parse", other_aspect, WARNED, "aspect"),
    "map of other ids": ("parse", foreign_ids, WARNED, "ids"),
    "map with three channels": ("parse", three_channels, WARNED, "damaged"),
}
PAIR_WAYS: dict[str, Way] = {
    "missing photo": ("person", unlink, SKIPPED, "found nothing"),
    "truncated garment": ("garment", truncate, SKIPPED, "damaged"),
    "missing garment": ("garment", unlink, WARNED, "no in-shop garment"),
    "keypoints are no JSON": ("keypoints", text, WARNED, "unusable keypoints"),
    "no keypoints": ("keypoints", unlink, WARNED, "no keypoints"),
}
NAME_WAYS: dict[str, Way] = {"bad name": ("person", bad_name, SKIPPED, "expected a name like")}
WAYS = {
    "viton_hd": PHOTO_WAYS | MAP_WAYS | PAIR_WAYS,
    "dresscode": PHOTO_WAYS | MAP_WAYS | PAIR_WAYS,
    # without a map, a photo of this set has no garment
    "deepfashion_multimodal": PHOTO_WAYS
    | {name: (file, do, SKIPPED, word) for name, (file, do, _, word) in MAP_WAYS.items()}
    | NAME_WAYS,
}


def file_of(item, which: str) -> Path:
    return item.segm if which == "parse" and hasattr(item, "segm") else getattr(item, which)


def spoil(path: Path, mode: str) -> None:
    """Save a photo in an unusual form that must still be read: grey, CMYK or 16 bits of grey."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if mode == "16 bit":
        wide = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
        Image.fromarray(wide).save(path, "PNG")
    else:
        rgb.convert({"grey": "L", "CMYK": "CMYK"}[mode]).save(path, "JPEG", quality=95)
