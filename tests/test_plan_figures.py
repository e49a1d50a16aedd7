"""What a plan says beside a step's figures: advice, slow saves, weights at the start, fits."""

import dataclasses

import jax
import pytest
from test_plan_parts import NO_REMAT, TINY, TINY_VAE, VITONHD, job

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import get_unet_shapes, get_vae_shapes
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.aot import describe_devices
from omfa_jax.planning.frozen_vae import SamplingMemory
from omfa_jax.planning.plan import find_fitting_overrides, find_lighter_remat, make_plan
from omfa_jax.planning.report import describe_data, describe_executed_flops, describe_slow_saves

SMALL = (VITONHD, TINY, NO_REMAT, "--config.model.vae=tiny")
ONE = parse_topology("h200-1")


def count_bytes(shapes):
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("flags", "networks"),
    [
        ((), ()),
        (("--config.model.init=folder",), ("unet", "vae")),
        # the VAE's fingerprint is compared with the latents'
        (("--config.model.init=folder", "--config.data.latents=latents"), ("unet", "vae")),
        (("--config.model.init=folder", "--config.model.init_unet=false"), ("vae",)),
        (("--config.checkpoint.start_from=run", "--config.model.init_unet=false"), ("unet", "vae")),
    ],
)
def test_the_start_reads_the_weights_that_the_config_names(flags, networks):
    small = job(*SMALL, *flags)
    sizes = {"unet": get_unet_shapes(small.unet), "vae": get_vae_shapes(small.vae)}
    found = make_plan(small, ONE).storage.weights_bytes
    assert found == sum(count_bytes(sizes[name]) for name in networks)


def test_what_stored_latents_save_is_the_difference_of_the_plans():
    small = job(*SMALL)
    pictures, latents = (
        make_plan(dataclasses.replace(small, encodes=encodes), ONE) for encodes in (True, False)
    )
    saved = pictures.step_seconds - latents.step_seconds
    memory = (pictures.peak_bytes - latents.peak_bytes) / 2**30
    said = describe_data(small, pictures)
    assert f"would save {saved:.3f} s a step and {memory:.2f} GiB per device" in said
    assert describe_executed_flops(pictures).endswith("with the VAE's encoder")
    assert describe_executed_flops(latents) == ""


def test_a_save_that_takes_longer_than_the_steps_between_is_said():
    small = job(*SMALL, "--config.checkpoint.every_steps=10")
    fast, slow = (make_plan(small, ONE, rate=rate) for rate in (1e12, 1.0))
    assert describe_slow_saves(small, fast) == []
    (said,) = describe_slow_saves(small, slow)
    assert f"the {10 * slow.step_seconds:.1f} s between saves" in said


def test_a_vae_gets_no_advice_on_remat_and_fits_in_microbatches():
    # remat block, which a VAE's training ignores
    vae = job(TINY_VAE, "--config.train.remat=block", "--config.train.batch_size=16")
    made = make_plan(vae, ONE)
    assert made.fits and find_lighter_remat(vae, ONE) is None
    half = dataclasses.replace(vae, train=dataclasses.replace(vae.train, grad_accum_steps=2))
    least = make_plan(half, ONE).peak_bytes
    assert least < 0.6 * made.peak_bytes
    usable = least / ONE.chip.memory_bytes
    assert find_fitting_overrides(vae, ONE, usable=usable) == "--config.train.grad_accum_steps=2"


def test_the_pictures_that_fit_are_counted_from_what_a_call_takes():
    sampling = SamplingMemory(
        pictures=2, weights_bytes=100, cast_bytes=10, unet_bytes=40, vae_bytes=30
    )
    assert [sampling.count_fitting(usable) for usable in (0, 110, 129.9, 130, 210)] == [
        *(0, 0, 0, 1, 5)
    ]


def test_compiling_for_a_machine_of_ones_own_is_refused_by_name():
    mine = dataclasses.replace(ONE, name="mine", own_chip=ONE.chip)
    with pytest.raises(OmfaError, match="no compiler target for mine, which a file describes"):
        describe_devices(mine)
