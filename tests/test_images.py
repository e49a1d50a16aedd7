"""Pictures of every kind become upright RGB, or one clear line."""

import io

import numpy as np
import pytest
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError


def _bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _ramp(height_px: int = 12, width_px: int = 20) -> np.ndarray:
    y, x = np.mgrid[:height_px, :width_px]
    return np.stack([x * 12, y * 20, 255 - x * 6], -1).astype(np.uint8)


def test_rgb_comes_back_exact_from_path_and_bytes(tmp_path):
    path = tmp_path / "ramp.png"
    images.write_image(path, _ramp())
    np.testing.assert_array_equal(images.read_rgb(path), _ramp())
    np.testing.assert_array_equal(images.read_rgb(path.read_bytes()), _ramp())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    upright = _ramp()
    inverse = {1: None, **images.EXIF_TRANSPOSES}
    inverse[6], inverse[8] = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
    stored = Image.fromarray(upright)
    if inverse[orientation] is not None:
        stored = stored.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _bytes(stored, exif=exif)
    np.testing.assert_array_equal(images.read_rgb(encoded), upright)


def test_orientation_six_is_a_quarter_turn_clockwise():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = _bytes(Image.fromarray(_ramp()), exif=exif)
    np.testing.assert_array_equal(images.read_rgb(encoded), np.rot90(_ramp(), -1))


def test_broken_exif_does_not_cost_the_picture():
    encoded = _bytes(Image.fromarray(_ramp()), exif=b"Exif\x00\x00garbage!")
    np.testing.assert_array_equal(images.read_rgb(encoded), _ramp())


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(np.full((6, 8, 3), (255, 255, 255), np.uint8)).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(images.read_rgb(_bytes(image, kind)), np.full((6, 8, 3), 255))


def test_cmyk_jpeg_is_not_inverted():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    pixel = images.read_rgb(_bytes(cyan, "JPEG", quality=100))[8, 8]
    np.testing.assert_allclose(pixel, (0, 255, 255), atol=3)


def test_alpha_is_laid_over_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 10, 10, 255)
    rgba[2:] = (0, 0, 0, 128)
    rgb = images.read_rgb(_bytes(Image.fromarray(rgba)))
    np.testing.assert_array_equal(rgb[0, 0], (200, 10, 10))
    np.testing.assert_allclose(rgb[3, 3], (127, 127, 127), atol=1)
    grey = Image.fromarray(np.dstack([np.zeros((4, 4)), np.zeros((4, 4))]).astype(np.uint8), "LA")
    np.testing.assert_array_equal(images.read_rgb(_bytes(grey)), np.full((4, 4, 3), 255))


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    rgb = images.read_rgb(_bytes(image, transparency=1))
    np.testing.assert_array_equal(rgb[0, 0], (10, 20, 30))
    np.testing.assert_array_equal(rgb[1, 1], (255, 255, 255))


def test_sixteen_bits_are_scaled_not_clipped():
    samples = np.array([[0, 257, 32896], [65535, 25700, 514]], np.uint16)
    expected = np.array([[0, 1, 128], [255, 100, 2]])
    rgb = images.read_rgb(_bytes(Image.fromarray(samples)))
    np.testing.assert_array_equal(rgb, np.repeat(expected[..., None], 3, -1))


def test_float_pictures_are_scaled():
    samples = np.array([[0.0, 0.5], [1.0, np.nan]], np.float32)
    rgb = images.read_rgb(_bytes(Image.fromarray(samples), "TIFF"))
    np.testing.assert_array_equal(rgb[..., 0], [[0, 128], [255, 0]])


def test_bad_pictures_give_one_clear_line(tmp_path):
    jpeg = images.encode_jpeg(_ramp(64, 64))
    cases = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "empty.png": (b"", "empty"),
        "text.jpg": (b"hello, not a picture", "not an image"),
        "dot.png": (_bytes(Image.new("RGB", (1, 1))), "too small"),
    }
    for name, (content, word) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OmfaError, match=word) as caught:
            images.read_rgb(tmp_path / name, "person photo")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"person photo {tmp_path / name}")
    for path, word in ((tmp_path, "a folder"), (tmp_path / "gone.png", "nothing")):
        with pytest.raises(OmfaError, match=word):
            images.read_rgb(path)


def test_labels_are_palette_indices_not_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 5], [13, 19]], np.uint8), "L").convert("P")
    image.putpalette([200, 0, 0] * 20)
    np.testing.assert_array_equal(images.read_labels(_bytes(image)), [[0, 5], [13, 19]])
    with pytest.raises(OmfaError, match="label ids"):
        images.read_labels(images.encode_png(_ramp()))


def test_letterbox_keeps_aspect_centres_and_goes_back():
    image = np.full((40, 20, 3), 90, np.uint8)
    framed = images.letterbox(image, 64, 64, fill=255)
    assert images.compute_letterbox_box((40, 20), 64, 64) == (0, 16, 64, 32)
    np.testing.assert_array_equal(framed[:, 16:48], np.full((64, 32, 3), 90))
    assert (framed[:, :16] == 255).all() and (framed[:, 48:] == 255).all()
    np.testing.assert_array_equal(images.unletterbox(framed, 40, 20), image)
    # and a landscape image, which has its margins above and below
    framed = images.letterbox(image.swapaxes(0, 1), 64, 64, fill=255)
    assert images.compute_letterbox_box((20, 40), 64, 64) == (16, 0, 32, 64)
    np.testing.assert_array_equal(framed[16:48], np.full((32, 64, 3), 90))
    assert (framed[:16] == 255).all() and (framed[48:] == 255).all()


def test_letterbox_of_the_right_size_is_the_same_picture():
    np.testing.assert_array_equal(images.letterbox(_ramp(), 12, 20), _ramp())


@pytest.mark.parametrize("size", [(1000, 3), (3, 1000), (7, 5)])
def test_letterbox_never_leaves_the_frame(size):
    assert images.letterbox(np.zeros((*size, 3), np.uint8), 32, 24).shape == (32, 24, 3)


def test_shrinking_is_antialiased():
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    small = images.resize(np.repeat(checker[..., None], 3, -1).astype(np.uint8), 8, 8)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), atomic_write(tmp_path / "a.png") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_write_image_by_suffix(tmp_path):
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG")):
        images.write_image(tmp_path / name, _ramp())
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPEG", "a.jpg", "a.png"]
    with pytest.raises(OmfaError, match=r"\.png"):
        images.write_image(tmp_path / "a.bmp", _ramp())
    with pytest.raises(OmfaError, match="float64"):
        images.write_image(tmp_path / "a.png", _ramp() / 255)
