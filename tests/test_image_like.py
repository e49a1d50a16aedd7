"""Images of any kind and size in the Python interface, and errors that speak of pixels."""

import numpy as np
import pytest
from PIL import Image
from tiny_training import SETTINGS

import omfa_jax as omfa
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.sampling.image_like import read_image_like
from omfa_jax.sampling.sampler import Sampler

SLOTS = omfa.SlotFitter(SETTINGS)


class StandIn(Sampler):
    """A sampler without networks: it checks its inputs and returns the pose, or white."""

    def __init__(self, settings=SETTINGS):
        self.model = type("Model", (), {"settings": settings})
        self.calls = []

    def __call__(self, task, given, pose, *, seed, has_pose=None):
        count = self._count_examples(task, given if pose is None else {**given, "pose": pose})
        self.calls.append((task, given, pose, seed))
        size = (count, *SLOTS.sizes["person"], 3)
        return {"person": np.zeros(size, np.uint8), "garment": np.full(size, 255, np.uint8)}


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)


def test_pictures_of_every_kind_are_letter_boxed_alike(photo, tmp_path):
    write_image(tmp_path / "photo.png", photo)
    expected = SLOTS.load_image("garment", tmp_path / "photo.png")
    signed = photo.astype(np.float32) / 127.5 - 1
    kinds = {
        "path": tmp_path / "photo.png",
        "text": str(tmp_path / "photo.png"),
        "pillow": Image.fromarray(photo),
        "uint8": photo,
        "batch": photo[None],
        "list": [photo],
        "float32": signed,
        "float64": signed.astype(np.float64)[None],
        "rgba": np.dstack([photo, np.full((40, 30), 255, np.uint8)]),
    }
    for kind, image in kinds.items():
        fitted = SLOTS.fit_images("garment", image)
        assert fitted.dtype == np.float32 and fitted.shape == (1, 32, 32, 3), kind
        np.testing.assert_array_equal(fitted, expected, err_msg=kind)
    both = SLOTS.fit_images("garment", [photo, str(tmp_path / "photo.png")])
    np.testing.assert_array_equal(both, np.concatenate([expected] * 2))
    grey = Image.fromarray(photo).convert("L")
    as_array = SLOTS.fit_images("face", np.asarray(grey))
    np.testing.assert_array_equal(SLOTS.fit_images("face", grey), as_array)
    cmyk = SLOTS.fit_images("face", Image.fromarray(photo).convert("CMYK"))
    assert cmyk.shape == (1, 16, 16, 3)
    # what fills the slot is not touched
    full = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    assert SLOTS.fit_images("person", full) is full
    # margins of a pose map are black
    assert SLOTS.fit_images("pose", photo)[0, :, 0].max() == -1
    assert SLOTS.fit_images("garment", photo)[0, :, 0].min() == 1


def test_pillow_images_are_turned_upright(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(photo)
    image._exif = exif
    turned = SLOTS.fit_images("garment", image)
    np.testing.assert_array_equal(turned, SLOTS.fit_images("garment", np.rot90(photo, -1)))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((40, 30, 2), np.uint8), r"an array \(height, width, 3\) of pixels, got .*\(40, "),
        (np.zeros(12, np.uint8), r"got an array of shape \(12,\)"),
        (np.zeros((40, 30, 3), np.int64), "expected uint8 or float32 pixels, got int64"),
        (np.full((40, 30, 3), 200.0), "float pixels from -1 to 1, got 200 to 200; .* as uint8"),
        (np.full((1, 32, 32, 3), 200, np.float32), "float pixels from -1 to 1, got 200 to 200"),
        (np.full((40, 30, 3), np.nan), "float pixels from -1 to 1, got nan"),
        (None, "expected a path, a Pillow image, or an array .* got NoneType"),
        ([], "at least one image"),
        ("absent.png", "garment absent.png: expected an image file"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_named(image, words):
    with pytest.raises(omfa.OmfaError, match=words):
        omfa.try_on(StandIn(), image, np.zeros((9, 9, 3), np.uint8), None)


def test_the_tasks_take_pictures(photo):
    sampler = StandIn()
    people = omfa.try_on(sampler, photo, Image.fromarray(photo), photo, seed=4)
    assert people.shape == (1, 32, 32, 3)
    garments = omfa.try_off(sampler, photo, photo, None)
    assert garments.shape == (1, 32, 32, 3)
    views = omfa.turntable(sampler, photo, photo, [photo, photo, photo])
    assert len(views) == 3
    worn, _ = omfa.transfer(sampler, photo, photo, None, photo, photo)
    assert len(worn) == 1
    for _, given, pose, _ in sampler.calls:
        assert {name: image.shape[1:3] for name, image in given.items()}.items() <= {
            "garment": (32, 32),
            "person": (32, 32),
            "face": (16, 16),
        }.items()
        assert pose is None or pose.shape == (1, 32, 32, 3)


def test_the_samplers_own_errors_speak_of_pixels():
    face = np.zeros((1, 16, 16, 3), np.float32)
    garment = np.zeros((1, 64, 48, 3), np.float32)
    with pytest.raises(omfa.OmfaError, match=r"garment: expected RGB images of 32x32 px.*fit_im"):
        StandIn()("try_on", {"garment": garment, "face": face}, None, seed=0)
    with pytest.raises(omfa.OmfaError, match="one batch size, got 1 of face, 2 of pose"):
        StandIn()("try_on", {"face": face}, np.zeros((2, 32, 32, 3), np.float32), seed=0)


def test_floats_from_0_to_1_are_warned_of(photo, caplog):
    fraction = np.linspace(0, 1, 32 * 24 * 3, dtype=np.float32).reshape(32, 24, 3)
    read_image_like(2 * fraction - 1, "garment")
    read_image_like(np.ones((8, 8, 3), np.float32), "garment")
    assert not caplog.messages
    read_image_like(fraction, "garment")
    (line,) = caplog.messages
    assert line.startswith("garment: float pixels are from -1 to 1, and these are 0 to 1")


def test_urls_are_named():
    for path in ("az://bucket/a.png", "https://host/a.png"):
        with pytest.raises(OmfaError, match=rf"{path[:5]}.*:// is not supported"):
            read_image_like(path, "garment")
    with pytest.raises(OmfaError, match="az:// is not supported"):
        omfa.load_model("az://bucket/run")
