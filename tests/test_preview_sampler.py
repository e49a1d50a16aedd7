"""The sampler with previews: the images of the sampler, and one program for all settings."""

import numpy as np
import pytest
from tiny_model import SLOTS, make_tiny_model

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.sampling.preview_sampler import PreviewSampler
from omfa_jax.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def model():
    return make_tiny_model()


@pytest.fixture(scope="module")
def previewing(model):
    return PreviewSampler(model, SamplerSettings(steps=4), previews=2)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    given = {
        name: rng.uniform(-1, 1, (1, *SLOTS[name], 3)).astype(np.float32)
        for name in ("garment", "face")
    }
    return given, rng.uniform(-1, 1, (1, *SLOTS["person"], 3)).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [
        SamplerSettings(steps=5, guidance=2.5),
        SamplerSettings(steps=3, guidance=1.0),
        SamplerSettings(steps=3, sampler="dpmpp_2m"),
    ],
)
def test_the_images_are_those_of_the_sampler_bit_for_bit(model, previewing, inputs, settings):
    seen = []
    previewing.change_settings(settings)
    previewing.on_preview = lambda done, steps, images: seen.append((done, steps, images))
    found = previewing("try_on", *inputs, seed=3)["person"]
    wanted = Sampler(model, settings)("try_on", *inputs, seed=3)["person"]
    np.testing.assert_array_equal(found, wanted)
    ((done, steps, images),) = seen
    assert 0 < done < steps == settings.steps
    assert images["person"].shape == found.shape and (images["person"] != found).any()


def test_steps_guidance_and_seed_share_a_program(previewing, inputs):
    for steps, guidance in ((4, 2.0), (9, 3.5), (200, 1.5)):
        previewing.change_settings(SamplerSettings(steps=steps, guidance=guidance))
        before = previewing._advance._cache_size()
        previewing("try_on", *inputs, seed=steps)
    assert previewing._advance._cache_size() == before


def test_a_callback_may_end_the_call(previewing, inputs):
    def stop(*_):
        raise OmfaError("enough")

    previewing.change_settings(SamplerSettings(steps=4))
    previewing.on_preview = stop
    with pytest.raises(OmfaError, match="enough"):
        previewing("try_on", *inputs, seed=0)
    previewing.on_preview = None
