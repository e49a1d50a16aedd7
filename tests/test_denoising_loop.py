"""The shipped small model through the sampler: what it promises to callers."""

from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_tiny_model

import omfa_jax
from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.model_loading import load_model
from omfa_jax.sampling.image_sheet import draw_sheet
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.sampling.task_functions import transfer, try_off, try_on, turntable

TINY = Path(omfa_jax.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def sampler():
    return Sampler(load_model(TINY), SamplerSettings(steps=2, guidance=2.0))


def draw_images(height, width, face):
    rng = np.random.default_rng(0)
    full = (height, width)
    sizes = {"garment": full, "person": full, "face": (face, face), "pose": full}
    return {n: rng.uniform(-1, 1, (2, *s, 3)).astype(np.float32) for n, s in sizes.items()}


@pytest.fixture(scope="module")
def given():
    return draw_images(128, 96, 64)


@pytest.fixture(scope="module")
def plain():
    """A sampler of next to no size, for what does not depend on the network, and its images."""
    model = Sampler(make_tiny_model(), SamplerSettings(steps=2, guidance=2.0))
    return model, draw_images(32, 32, 16)


def test_try_on_depends_on_every_condition_and_on_the_seed(sampler, given):
    first = try_on(sampler, given["garment"], given["face"], given["pose"])
    assert first.shape == (2, 128, 96, 3) and first.dtype == np.uint8
    again = try_on(sampler, given["garment"], given["face"], given["pose"])
    np.testing.assert_array_equal(first, again)
    for name in ("garment", "face", "pose"):
        changed = {**given, name: given[name][::-1]}
        other = try_on(sampler, changed["garment"], changed["face"], changed["pose"])
        assert np.abs(first.astype(int) - other).max() > 2, name
    other = try_on(sampler, given["garment"], given["face"], given["pose"], seed=1)
    assert np.abs(first.astype(int) - other).max() > 2


def test_try_off_depends_on_the_person(sampler, given):
    first = try_off(sampler, given["person"], given["face"], given["pose"])
    other = try_off(sampler, given["person"][::-1], given["face"], given["pose"])
    assert first.shape == (2, 128, 96, 3)
    assert np.abs(first.astype(int) - other).max() > 2


def test_an_example_does_not_depend_on_its_batch(plain):
    sampler, given = plain
    together = try_on(sampler, given["garment"], given["face"], given["pose"])
    alone = try_on(sampler, given["garment"][:1], given["face"][:1], given["pose"][:1])
    assert np.abs(together[:1].astype(int) - alone).max() <= 1


def test_an_example_without_a_pose_gets_the_null_pose(plain):
    sampler, given = plain
    clean = {"garment": given["garment"], "face": given["face"]}
    absent = np.zeros(2, bool)
    blind = sampler("try_on", clean, given["pose"], seed=0, has_pose=absent)["person"]
    null = sampler("try_on", clean, None, seed=0)["person"]
    np.testing.assert_array_equal(blind, null)
    seeing = sampler("try_on", clean, given["pose"], seed=0, has_pose=~absent)["person"]
    assert np.abs(seeing.astype(int) - null).max() > 2


def test_transfer_is_try_off_then_try_on(sampler, given):
    from omfa_jax.core.images import to_signed

    source = (given["person"], given["face"], given["pose"])
    garments, people = transfer(sampler, *source, given["face"][::-1], given["pose"][::-1])
    np.testing.assert_array_equal(garments, try_off(sampler, *source))
    expected = try_on(sampler, to_signed(garments), given["face"][::-1], given["pose"][::-1])
    np.testing.assert_array_equal(people, expected)


def test_turntable_has_a_picture_a_view(sampler, given):
    views = turntable(sampler, given["garment"][:1], given["face"][:1], given["pose"])
    assert views.shape == (2, 128, 96, 3)
    assert np.abs(views[0].astype(int) - views[1]).max() > 2


def test_wrong_calls_are_clear(sampler, given):
    with pytest.raises(OmfaError, match="did you mean 'try_on'"):
        sampler("try_onn", given, None, seed=0)
    with pytest.raises(OmfaError, match="one batch size"):
        try_on(sampler, given["garment"][:1], given["face"], given["pose"])


def test_a_sheet_shows_every_picture():
    red = np.zeros((8, 6, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    picture = draw_sheet({"one": [red, red], "two": [red]}, 8, 6)
    assert (picture == [255, 0, 0]).all(-1).sum() == 3 * 8 * 6
