"""Records to slots through Pillow's memory: bit for bit what plain arrays make of them."""

import io

import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image

from omfa_jax.core import images
from omfa_jax.data.pipeline.buffer_pool import BufferPool
from omfa_jax.data.pipeline.decode_record import decode_record, decode_to_pil, stack_examples
from omfa_jax.data.records.record_schema import Record

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (40, 24)}
INSIDE, OVER, OUTSIDE = (9.6, 4.4, 25.4, 20.2), (-7.5, -3.0, 12.5, 17.0), (90.0, 90.0, 99.0, 99.0)


def _pixels(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def _encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _turned(height, width):
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    return _encoded(Image.fromarray(_pixels(height, width)), "JPEG", exif=exif)


def _shown(mode, height, width):
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = _pixels(height, width, channels)
    return _encoded(Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode))


PEOPLE = {
    "as the slot": _shown("RGB", 64, 48),
    "JPEG": _encoded(Image.fromarray(_pixels(64, 48)), "JPEG", quality=90, subsampling=2),
    "larger": _shown("RGB", 200, 150),
    "smaller": _shown("RGB", 31, 23),
    "wide": _shown("RGB", 40, 90),
    "narrow": _shown("RGB", 90, 20),
    "turned": _turned(48, 64),
    "turned and wide": _turned(90, 70),
    "grey": _shown("L", 64, 48),
    "transparent": _shown("RGBA", 64, 48),
    "palette": _encoded(Image.fromarray(_pixels(70, 48)).quantize(16)),
    "16 bits": _encoded(Image.fromarray(_pixels(64, 48)[..., 0].astype(np.uint16) * 257)),
    "CMYK": _encoded(Image.fromarray(_pixels(64, 48)).convert("CMYK"), "JPEG"),
    "Display P3": _encoded(
        Image.fromarray(_pixels(64, 48)), icc_profile=icc.make_rgb_profile("display_p3")
    ),
}


def _record(person, box, *, pose=True):
    return Record(
        key="k",
        split="train",
        person=person,
        height_px=64,
        width_px=48,
        garment=_shown("RGB", 50, 50),
        garment_source="in_shop",
        category="upper",
        has_face=box is not None,
        face_box_px=box or (0.0, 0.0, 0.0, 0.0),
        has_pose=pose,
        pose=person if pose else b"",
        unpaired_garment_key="",
        unpaired_garment=b"",
    )


def _framed(picture, height_px, width_px, fill):
    """Return the picture letter-boxed by arrays alone, but for Pillow's resampling."""
    top, left, height, width = images.compute_letterbox_box(picture.shape[:2], height_px, width_px)
    frame = np.full((height_px, width_px, 3), fill, np.uint8)
    frame[top : top + height, left : left + width] = images.resize(picture, height, width)
    return frame


def _cut(picture, box):
    side = max(1, round(box[2] - box[0]))
    padded = np.full((400, 400, 3), 255, np.uint8)
    padded[100 : 100 + picture.shape[0], 100 : 100 + picture.shape[1]] = picture
    left, top = 100 + round(box[0]), 100 + round(box[1])
    return padded[top : top + side, left : left + side]


def _expected(record):
    person, garment = images.read_rgb(record.person), images.read_rgb(record.garment)
    face = np.full((1, 1, 3), 255, np.uint8)
    if record.has_face:
        face = _cut(person, record.face_box_px)
    pose = images.read_rgb(record.pose) if record.has_pose else np.zeros((1, 1, 3), np.uint8)
    return {
        "garment": _framed(garment, *SLOTS["garment"], 255),
        "person": _framed(person, *SLOTS["person"], 255),
        "face": _framed(face, *SLOTS["face"], 255),
        "pose": _framed(pose, *SLOTS["person"], 0),
        "has_pose": record.has_pose,
    }


@pytest.mark.parametrize("box", [INSIDE, OVER, OUTSIDE, None])
@pytest.mark.parametrize("kind", PEOPLE)
def test_pictures_are_those_of_plain_arrays(kind, box):
    record = _record(PEOPLE[kind], box, pose=box is not INSIDE)
    expected = _expected(record)
    decoded = decode_record(record, SLOTS)
    batch = stack_examples((decode_to_pil(record, SLOTS) for _ in range(2)), 2)
    assert set(decoded) == set(batch) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(decoded[name], value)
        np.testing.assert_array_equal(batch[name], [value, value])


def test_stored_pictures_are_converted_by_their_profile():
    batch = stack_examples([decode_to_pil(_record(PEOPLE["Display P3"], None), SLOTS)], 1)
    want = icc.to_srgb(_pixels(64, 48), "display_p3")
    assert np.abs(want - _pixels(64, 48)).max() > 20
    np.testing.assert_allclose(batch["person"][0].astype(int), want, atol=4)


def test_pixels_of_any_size_are_copied_whole():
    for height, width in ((2, 3), (700, 401), (2, 300_000)):
        pixels = _pixels(height, width)
        place = np.zeros_like(pixels)
        images.copy_pixels(Image.fromarray(pixels), place)
        np.testing.assert_array_equal(place, pixels)
    with pytest.raises(ValueError, match="does not fit"):
        images.copy_pixels(Image.new("L", (3, 2)), np.zeros((2, 3, 3), np.uint8))


def test_memory_is_used_again_only_when_nobody_holds_a_view():
    rooms = BufferPool()
    first = rooms.acquire(1000)
    where, row = first.ctypes.data, first[:60].view("<f2").reshape(3, 10)[1]
    row[:] = 7
    del first
    others = [rooms.acquire(1000) for _ in range(3)]
    assert where not in [other.ctypes.data for other in others]
    for other in others:
        other[:] = 0
    assert (row == 7).all()
    del row
    assert rooms.acquire(1000).ctypes.data == where
    # another size is other memory
    assert len(rooms.acquire(10)) == 10
