"""Draw a contact sheet of records."""

import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from omfa_jax.core import images
from omfa_jax.core.atomic_files import delete_stale_temporaries
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_writable_file
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.face_crop import FaceBox, crop_face

GAP_PX = 4
CAPTION_PX = 14
BOX_RED = (255, 0, 0)


def write_contact_sheet(
    records_dir: str | os.PathLike,
    out_path: str | os.PathLike,
    *,
    split: str,
    count: int = 8,
    cell_px: tuple[int, int] = (256, 192),
) -> UInt8[np.ndarray, "h w 3"]:
    """Write the first `count` records of a split as a PNG or JPEG sheet, and return it.

    `cell_px`: (height, width) of each image. Columns: person with the face box in red, garment and
    its source, face crop, pose map over the photo and the source of its body, unpaired garment;
    missing images are grey. Captions are printed below their row. Raises OmfaError for a folder of
    latents.
    """
    out = require_any_writable_file(out_path, "--out")
    if record_schema.read_manifest(records_dir)["kind"] != "images":
        raise OmfaError(f"--records {records_dir}: expected image records, found latents")
    source = record_schema.open_records(records_dir, split)
    rows = [_row(source[i], *cell_px) for i in range(min(count, len(source)))]
    sheet = np.concatenate(rows)
    delete_stale_temporaries(out.parent)
    images.write_image(out, sheet)
    return sheet


def _row(record: record_schema.Record, height_px: int, width_px: int) -> UInt8[np.ndarray, "h w 3"]:
    person = images.read_rgb(record.person)
    boxed = person
    face = None
    if record.has_face:
        boxed = _draw_box(person, record.face_box_px)
        face = crop_face(person, record.face_box_px)
    cells = [
        (f"{record.split}/{record.key}", boxed),
        (f"{record.garment_source} {record.category}", _optional(record.garment)),
        ("face", face),
        (f"pose {record.body_source}", _overlay_pose(person, record)),
        (f"unpaired {record.unpaired_garment_key}", _optional(record.unpaired_garment)),
    ]
    row = np.concatenate([draw_cell(text, image, height_px, width_px) for text, image in cells], 1)
    # only DeepFashion-MultiModal has captions
    if not record.caption:
        return row
    line = Image.new("RGB", (row.shape[1], CAPTION_PX), (255, 255, 255))
    ImageDraw.Draw(line).text((2, 1), record.caption, fill=(0, 0, 0))
    return np.concatenate([row, np.array(line)])


def _overlay_pose(person: np.ndarray, record: record_schema.Record) -> np.ndarray | None:
    """Return the pose map over the photo, which shows whether the two agree."""
    if not record.has_pose:
        return None
    pose = images.letterbox(images.read_rgb(record.pose), *person.shape[:2], fill=0)
    body = pose.any(axis=2, keepdims=True)
    return np.where(body, (0.4 * person + 0.6 * pose).astype(np.uint8), person)


def _optional(encoded: bytes) -> np.ndarray | None:
    return images.read_rgb(encoded) if encoded else None


def _draw_box(image: np.ndarray, box: FaceBox) -> UInt8[np.ndarray, "h w 3"]:
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).rectangle(box, outline=BOX_RED, width=max(1, image.shape[1] // 150))
    return np.array(drawn)


def draw_cell(
    text: str, image: np.ndarray | None, height_px: int, width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image letterboxed into a cell of a sheet below its caption; grey if it is None."""
    frame = np.full((height_px + CAPTION_PX + GAP_PX, width_px + GAP_PX, 3), 255, np.uint8)
    # grey, so that a missing image is not taken for a white one
    content = np.full((height_px, width_px, 3), 200, np.uint8)
    if image is not None:
        content = images.letterbox(image, height_px, width_px, fill=230)
    frame[CAPTION_PX : CAPTION_PX + height_px, :width_px] = content
    captioned = Image.fromarray(frame)
    ImageDraw.Draw(captioned).text((2, 1), text, fill=(0, 0, 0))
    return np.array(captioned)
