"""A few painted people in VITON-HD's folder layout, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from omfa_jax.core import images
from omfa_jax.data.builders.label_sets import CIHP

HEIGHT_PX, WIDTH_PX = 64, 48
SKIN, HAIR, GROUND = (230, 190, 160), (60, 40, 20), (210, 210, 210)
FACE_CENTRE_PX = (24, 16)


def colour(number: int) -> tuple[int, int, int]:
    """Return a garment colour that tells the people apart."""
    return (20 + 40 * (number % 5), 200 - 30 * (number % 4), 60 + 20 * (number % 7))


def label_map() -> np.ndarray:
    labels = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    labels[8:24, 18:31] = CIHP.ids["hair"]
    labels[12:22, 20:29] = CIHP.ids["face"]
    labels[24:50, 14:35] = CIHP.ids["upper"]
    labels[50:64, 16:33] = CIHP.ids["pants"]
    return labels


def photo(number: int) -> np.ndarray:
    labels = label_map()
    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), GROUND, np.uint8)
    picture[labels == CIHP.ids["hair"]] = HAIR
    picture[labels == CIHP.ids["face"]] = SKIN
    picture[labels == CIHP.ids["upper"]] = colour(number)
    picture[labels == CIHP.ids["pants"]] = (10, 10, 60)
    return picture


def garment(number: int) -> np.ndarray:
    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)
    picture[10:54, 10:38] = colour(number)
    return picture


def pose_map(number: int) -> np.ndarray:
    picture = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    picture[8:, 14:35] = (128, 128, 200 + number % 50)
    return picture


def keypoints(layout: int = 25) -> np.ndarray:
    """Return (layout, 3) rows with nose, eyes and ears of the painted head."""
    rows = np.zeros((layout, 3))
    first = {25: 15, 18: 14}[layout]
    x, y = FACE_CENTRE_PX
    rows[0] = (x, y + 2, 0.9)
    rows[first : first + 4] = [[x - 2, y, 0.9], [x + 2, y, 0.9], [x - 5, y, 0.8], [x + 5, y, 0.8]]
    return rows


def write_keypoints(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    people = [{"pose_keypoints_2d": rows.ravel().tolist()}]
    path.write_text(json.dumps({"version": 1.3, "people": people}))


def write_raw(root: Path, counts: dict[str, int], *, pose: bool = True) -> Path:
    """Write {split: people}; in val and test each person's unpaired garment is the next one's."""
    for split, count in counts.items():
        folder = root / split
        names = [f"{i:05d}_00" for i in range(count)]
        for number, name in enumerate(names):
            images.write_image(folder / "image" / f"{name}.jpg", photo(number))
            images.write_image(folder / "cloth" / f"{name}.jpg", garment(number))
            if pose:
                images.write_image(folder / "pose" / f"{name}.png", pose_map(number))
            write_keypoints(folder / "openpose_json" / f"{name}_keypoints.json", keypoints())
            write_labels(folder / "image-parse-v3" / f"{name}.png", label_map())
        step = 0 if split == "train" else 1
        lines = [f"{a}.jpg {names[(i + step) % count]}.jpg\n" for i, a in enumerate(names)]
        (root / f"{split}_pairs.txt").write_text("".join(lines))
    return root


def write_labels(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([value for i in range(256) for value in (i * 7 % 256, i * 31 % 256, 90)])
    image.save(path)
