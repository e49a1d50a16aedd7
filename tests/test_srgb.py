"""Embedded colour profiles are converted to sRGB, wherever and however the picture is stored."""

import dataclasses
import io
import struct
import zlib

import icc_profiles as icc
import numpy as np
import pytest
import tiny_viton as tiny
from PIL import Image

from omfa_jax.core import images, srgb
from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.raw_files import read_image_and_bytes
from omfa_jax.data.pipeline.decode_record import decode_record
from omfa_jax.data.records.record_schema import open_records
from omfa_jax.evals.file_matching import list_images
from omfa_jax.evals.image_preparation import inspect_file

# the four colours of a photo: skin, red, blue, grey
COLORS = np.array([[210, 160, 140], [200, 40, 50], [40, 80, 190], [128, 128, 128]], np.uint8)
TOLERANCE = 4
SLOTS = {"garment": (32, 32), "person": (32, 32), "face": (16, 16)}


@pytest.fixture(autouse=True)
def _forget_reports(monkeypatch):
    monkeypatch.setattr(srgb, "_reported", set())


def squares(colors: np.ndarray = COLORS) -> np.ndarray:
    return np.kron(colors.reshape(2, 2, -1), np.ones((16, 16, 1), np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(image: np.ndarray) -> np.ndarray:
    return image[8::16, 8::16].reshape(4, -1).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", ["display_p3", "adobe_rgb", "prophoto"])
def test_the_colours_of_a_profile_are_what_they_are(name, kind):
    options = {"quality": 100} if kind != "PNG" else {}
    profile = icc.make_rgb_profile(name)
    encoded = encode(Image.fromarray(squares()), kind, icc_profile=profile, **options)
    want = icc.to_srgb(COLORS, name)
    assert np.abs(want - COLORS).max() > 10
    np.testing.assert_allclose(corners(images.read_rgb(encoded)), want, atol=TOLERANCE)


def test_an_srgb_profile_changes_no_byte():
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for profile in (
        icc.make_rgb_profile("srgb"),
        srgb.ImageCms.ImageCmsProfile(srgb.ImageCms.createProfile("sRGB")).tobytes(),
    ):
        encoded = encode(Image.fromarray(noise), icc_profile=profile)
        np.testing.assert_array_equal(images.read_rgb(encoded), noise)


def test_grey_pictures_with_profiles():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    profile = icc.make_grey_profile(1.0)
    found = images.read_rgb(encode(Image.fromarray(ramp), icc_profile=profile))
    want = np.repeat(icc.grey_to_srgb(ramp, 1.0)[..., None], 3, -1)
    np.testing.assert_allclose(found, want, atol=1.5)
    # 16 bits: the same ramp
    wide = encode(Image.fromarray(ramp.astype(np.uint16) * 257), icc_profile=profile)
    np.testing.assert_array_equal(images.read_rgb(wide), found)
    # a grey picture with the profile of a screen
    plain = encode(Image.fromarray(ramp), icc_profile=icc.make_rgb_profile("adobe_rgb"))
    want = icc.to_srgb(np.repeat(ramp[..., None], 3, -1), "adobe_rgb")
    np.testing.assert_allclose(images.read_rgb(plain), want, atol=TOLERANCE)


def test_palette_and_transparent_pictures_with_profiles():
    profile, want = icc.make_rgb_profile("display_p3"), icc.to_srgb(COLORS, "display_p3")
    palette = Image.fromarray(squares()).quantize(4)
    encoded = encode(palette, icc_profile=profile)
    np.testing.assert_allclose(corners(images.read_rgb(encoded)), want, atol=TOLERANCE)
    layer = Image.fromarray(squares()).convert("RGBA")
    layer.putpixel((0, 0), (0, 255, 0, 0))
    found = images.read_rgb(encode(layer, icc_profile=profile))
    np.testing.assert_array_equal(found[0, 0], (255, 255, 255))
    np.testing.assert_allclose(corners(found), want, atol=TOLERANCE)


def test_cmyk_by_its_profile():
    # inks that print lighter than Pillow's own formula has it
    profile = icc.make_cmyk_profile(
        lambda c, m, y, k: (100 - 20 * (c + m + y) - 30 * k, 0.0, 30.0 * (y - c))
    )
    image = Image.new("CMYK", (16, 16), (0, 0, 255, 0))
    pixel = images.read_rgb(encode(image, "TIFF", icc_profile=profile))[8, 8].astype(int)
    # CIELAB (80, 0, 30) is about this
    np.testing.assert_allclose(pixel, (216, 197, 142), atol=TOLERANCE)
    plain = images.read_rgb(encode(image, "TIFF"))[8, 8]
    np.testing.assert_array_equal(plain, (255, 255, 0))


@pytest.mark.parametrize(
    "profile",
    [b"garbage", bytes(500), icc.make_rgb_profile("display_p3")[:200], icc.make_grey_profile(2.2)],
)
def test_a_damaged_profile_is_ignored_with_a_word(tmp_path, caplog, profile):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(squares()), icc_profile=profile))
    for _ in range(3):
        np.testing.assert_array_equal(images.read_rgb(path), squares())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "a.png: colour profile ignored" in told[0] and "\n" not in told[0]


def test_many_damaged_profiles_are_no_flood(caplog):
    encoded = encode(Image.fromarray(squares()), icc_profile=b"garbage")
    for index in range(100):
        images.read_rgb(encoded, f"person of {index}")
    assert len(caplog.records) == srgb.MAX_REPORTED + 1
    assert "not listed" in caplog.records[-1].getMessage()


def test_lab_pictures_are_read():
    lab = Image.new("LAB", (4, 4), (128, 128, 128))
    pixel = images.read_rgb(encode(lab, "TIFF"))[0, 0].astype(int)
    np.testing.assert_allclose(pixel, (119, 119, 119), atol=TOLERANCE)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("name", ["display_p3", "adobe_rgb", "prophoto"])
def test_records_store_what_the_colours_are(tmp_path, name, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(squares())
    image.save(path, quality=100, icc_profile=icc.make_rgb_profile(name))
    encoded, pixels = read_image_and_bytes(path, "person photo")
    want = icc.to_srgb(COLORS, name)
    np.testing.assert_allclose(corners(pixels), want, atol=TOLERANCE)
    with Image.open(io.BytesIO(encoded)) as stored:
        assert not stored.info.get("icc_profile")
        np.testing.assert_allclose(corners(np.array(stored)), want, atol=TOLERANCE)
    # an sRGB photo keeps its bytes, profile and all
    image.save(path, quality=100, icc_profile=icc.make_rgb_profile("srgb"))
    assert read_image_and_bytes(path, "person photo")[0] == path.read_bytes()


def test_pictures_that_were_stored_with_a_profile_are_converted(tmp_path):
    """Records that were built before profiles were read have the photos as they were."""
    raw = tiny.write_raw(tmp_path / "raw", {"train": 1})
    build_records(raw, tmp_path / "records")
    record = open_records(tmp_path / "records", "train")[0]
    for kind in ("JPEG", "PNG"):
        profile = icc.make_rgb_profile("display_p3")
        options = {"quality": 100} if kind == "JPEG" else {}
        encoded = encode(Image.fromarray(squares()), kind, icc_profile=profile, **options)
        old = dataclasses.replace(record, person=encoded, garment=encoded)
        example = decode_record(old, SLOTS)
        want = icc.to_srgb(COLORS, "display_p3")
        for name in ("person", "garment"):
            np.testing.assert_allclose(corners(np.asarray(example[name])), want, atol=TOLERANCE)


def test_an_evaluation_says_what_it_converts(tmp_path, caplog):
    path = tmp_path / "a.png"
    path.write_bytes(
        encode(Image.fromarray(squares()), icc_profile=icc.make_rgb_profile("adobe_rgb"))
    )
    assert inspect_file(path).converted == "colour profile"
    path.write_bytes(encode(Image.fromarray(squares()), icc_profile=icc.make_rgb_profile("srgb")))
    assert inspect_file(path).converted == ""


def test_one_table_of_suffixes(tmp_path):
    for index, suffix in enumerate(READ_SUFFIXES):
        (tmp_path / f"{index}{suffix.upper()}").touch()
    assert len(list_images(tmp_path, "predictions", "--pred")) == len(READ_SUFFIXES)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


CHUNKS = {
    "colours with gamma 1": (b"gAMA", struct.pack(">I", 100_000)),
    "colours in Display P3": (b"cICP", bytes([12, 13, 0, 1])),
    "colours in BT.2020 and HDR (PQ)": (b"cICP", bytes([9, 16, 0, 1])),
    "colours with other primaries than sRGB's": (
        b"cHRM",
        struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    ),
    # sRGB in each way of saying it
    "": (b"gAMA", struct.pack(">I", 45_455)),
    " ": (b"cICP", bytes([1, 13, 0, 1])),
    "  ": (b"sRGB", b"\0"),
}


@pytest.mark.parametrize("said", CHUNKS)
def test_colours_that_a_png_states_without_a_profile_are_said(caplog, said):
    plain = encode(Image.fromarray(squares()))
    # after the signature and the header
    found = images.read_rgb(plain[:33] + png_chunk(*CHUNKS[said]) + plain[33:], "photo")
    np.testing.assert_array_equal(corners(found), COLORS)
    words = f"photo: {said} without a colour profile are not converted, read as sRGB"
    assert [record.getMessage() for record in caplog.records] == [words] * bool(said.strip())


def test_adobe_rgb_of_a_camera_is_said(caplog):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    images.read_rgb(encode(Image.fromarray(squares()), "JPEG", exif=exif.tobytes()), "photo")
    assert "photo: colours in Adobe RGB (by EXIF)" in caplog.text


def test_colours_of_heic_without_a_profile_are_said(caplog):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener(thumbnails=False)
    encoded = encode(
        Image.fromarray(squares()),
        "HEIF",
        color_primaries=12,
        transfer_characteristics=13,
        matrix_coefficients=6,
        full_range_flag=1,
    )
    images.read_rgb(encoded, "photo")
    assert "photo: colours in Display P3 without a colour profile" in caplog.text
