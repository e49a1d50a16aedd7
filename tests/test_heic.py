"""HEIC with the extra, AVIF where Pillow has it, or one line that says what to install."""

import io
import sys

import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image, features

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import find_heif_kind
from omfa_jax.data.builders.raw_files import read_image_and_bytes

SMOOTH = np.kron(
    np.array([[[200, 60, 60], [60, 160, 80]], [[60, 80, 190], [220, 210, 90]]], np.uint8),
    np.ones((32, 48, 1), np.uint8),
)


def encode_heic(image: np.ndarray, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(buffer, quality=90, **options)
    return buffer.getvalue()


def test_heic_is_read_upright_and_in_srgb(tmp_path):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(encode_heic(SMOOTH))
    assert find_heif_kind(path.read_bytes()) == "HEIC"
    found = images.read_rgb(path)
    assert found.shape == SMOOTH.shape
    np.testing.assert_allclose(found[16::32, 24::48], SMOOTH[16::32, 24::48], atol=6)
    assert images.read_upright_size(path) == (96, 64)
    # turned by the camera: pixels lie on their side
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    path.write_bytes(encode_heic(SMOOTH, exif=exif.tobytes()))
    turned = images.read_rgb(path)
    assert turned.shape == (96, 64, 3) and images.read_upright_size(path) == (64, 96)
    np.testing.assert_allclose(turned, np.rot90(found, -1), atol=6)
    # a phone's own colours
    image = Image.fromarray(SMOOTH)
    image.info["icc_profile"] = icc.make_rgb_profile("display_p3")
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(image).save(path, quality=95)
    want = icc.to_srgb(SMOOTH[16::32, 24::48], "display_p3")
    np.testing.assert_allclose(images.read_rgb(path)[16::32, 24::48], want, atol=6)
    # stored in records as a JPEG of the same picture
    encoded, pixels = read_image_and_bytes(path, "person photo")
    with Image.open(io.BytesIO(encoded)) as stored:
        assert stored.format == "JPEG" and not stored.info.get("icc_profile")
    np.testing.assert_allclose(images.read_rgb(encoded), pixels, atol=12)


@pytest.mark.parametrize("read", [images.read_rgb, images.read_upright_size])
def test_without_the_extra_the_line_names_it(tmp_path, monkeypatch, read):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(OmfaError) as caught:
        read(path, "person (--person)")
    told = str(caught.value)
    assert "IMG_0001.HEIC" in told and "HEIC image needs pillow_heif" in told
    assert "pip install -e '.[heif]'" in told and "\n" not in told


@pytest.mark.parametrize("read", [images.read_rgb, images.read_upright_size])
def test_a_damaged_heic_is_named_as_such(tmp_path, read):
    pytest.importorskip("pillow_heif")
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(OmfaError, match=r"IMG_0001\.HEIC: a damaged HEIC image"):
        read(path)


def test_avif(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    if features.check("avif"):
        Image.fromarray(SMOOTH).save(path, quality=95)
        found = images.read_rgb(path)
        np.testing.assert_allclose(found[16::32, 24::48], SMOOTH[16::32, 24::48], atol=6)
    path.write_bytes(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(200))
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(OmfaError, match=r"AVIF image needs a Pillow with AVIF"):
        images.read_rgb(path)


def test_videos_are_no_photos(tmp_path):
    path = tmp_path / "a.mov"
    path.write_bytes(b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(200))
    with pytest.raises(OmfaError, match="not an image"):
        images.read_rgb(path)
