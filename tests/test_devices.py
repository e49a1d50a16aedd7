"""Attention kernel, dtype and rates follow the devices that a program runs on."""

import types
from typing import ClassVar

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused
import numpy as np
import pytest
from tiny_model import make_tiny_model, save_tiny_model, write_records
from tiny_training import SETTINGS, UNET

from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.cli.sampler_flags import SAMPLE_DTYPES
from omfa_jax.cli.train import make_sample_images
from omfa_jax.core.images import write_image
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals import training_evaluation, training_images
from omfa_jax.models import get_vae_config
from omfa_jax.parallel.attention_kernels import select_attention_kernel
from omfa_jax.parallel.global_arrays import put_global
from omfa_jax.parallel.hardware import CHIPS
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.planning.run_cost import compute_unet_cost, compute_vae_cost
from omfa_jax.sampling import sampler
from omfa_jax.sampling.sampler import Sampler, choose_dtype

STEPS = SamplerSettings(steps=2, guidance=2.0)
GIVEN = {
    name: np.zeros((2, *size, 3), np.float32)
    for name, size in zip(COMPONENTS, SETTINGS.slots_px, strict=True)
}


@pytest.fixture(scope="module")
def model():
    return make_tiny_model(config=UNET)


@pytest.fixture
def nvidia(monkeypatch):
    """Samplers take their devices for NVIDIA's, whose cuDNN compiles for them."""
    monkeypatch.setattr(
        fused, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    )
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(
        sampler,
        "select_attention_kernel",
        lambda asked, _, dtype: select_attention_kernel(asked, "gpu", dtype),
    )


def lowered(sampler):
    """Return the sampler's program as it would go to NVIDIA's compiler."""
    run, texts = sampler._run, []

    def lower(*arguments, **static):
        traced = run.trace(*arguments, **static)
        texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
        return {}

    sampler._run = lower
    sampler.dispatch("try_on", GIVEN, None, seed=0)
    sampler._run = run
    return texts[0]


@pytest.mark.parametrize("devices", [None, 1, 2])
def test_a_one_device_program_uses_the_platforms_kernel(model, nvidia, devices):
    assert jax.device_count() == 8
    used = None if devices is None else jax.devices()[-devices:]
    sampler = Sampler(model, STEPS, dtype="bfloat16", devices=used)
    # a call a transformer: this one has an encoder's, a middle and two decoder's
    assert lowered(sampler).count("__cudnn$fmha") == 4


def test_a_run_may_choose_another_kernel(model, nvidia):
    sampler = Sampler(model, STEPS, dtype="bfloat16", attention="xla")
    assert "__cudnn" not in lowered(sampler)
    # what cuDNN has no kernel for
    assert "__cudnn" not in lowered(Sampler(model, STEPS, dtype="float32"))


def test_the_default_device_is_jaxs(model):
    """Weights are brought there, a training run's that lie on all of its mesh too."""
    device = jax.devices()[3]
    with jax.default_device(device):
        sampler = Sampler(model, STEPS)
    made = sampler.dispatch("try_on", GIVEN, None, seed=0)["person"]
    assert made.devices() == {device} and made.shape[0] == 2
    mesh = make_mesh(MeshSettings(data=1, fsdp=8))
    spread = put_global(
        model.unet_params, make_param_shardings(UNET_RULES, model.unet_params, mesh)
    )
    other = sampler.dispatch("try_on", GIVEN, None, seed=0, params=spread)["person"]
    assert other.devices() == {device}
    np.testing.assert_array_equal(made, other)


@pytest.mark.parametrize(
    ("asked", "platform", "taken"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "gpu", "bfloat16"),
        ("auto", "tpu", "bfloat16"),
        ("float32", "gpu", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_accelerators_sample_in_bfloat16(asked, platform, taken):
    assert choose_dtype(asked, platform) == taken


class Recorder:
    """Stands in for the sampler and keeps how it was made."""

    made: ClassVar[list] = []

    def __init__(self, model, settings, **how):
        self.made.append(how)
        self.model, self.settings, self.dtype = model, settings, how["dtype"]
        self.devices = len(how.get("devices") or [0])

    def __call__(self, task, *arguments, **how):
        name = {"try_on": "person", "try_off": "garment"}[task]
        return {name: np.zeros((2, *SETTINGS.slots_px[0], 3), np.uint8)}


@pytest.fixture
def made(monkeypatch):
    for module in (sampler, training_images, training_evaluation):
        monkeypatch.setattr(module, "Sampler", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


def test_omfa_sample_takes_a_dtype(tmp_path, model, made, capsys):
    folder = save_tiny_model(tmp_path / "model", model)
    for name in ("person", "face"):
        write_image(tmp_path / f"{name}.png", np.zeros((32, 32, 3), np.uint8))
    flags = [
        *("sample", "--checkpoint", str(folder), "--task", "try_off"),
        *(f"--person={tmp_path}/person.png", f"--face={tmp_path}/face.png"),
        *("--out", str(tmp_path / "out")),
    ]
    for dtype in ((), ("--dtype", "float32"), ("--dtype", "bfloat16")):
        assert main([*flags, *dtype]) == 0
    assert [how["dtype"] for how in made] == ["auto", "float32", "bfloat16"] == [*SAMPLE_DTYPES]
    assert main([*flags, "--dtype", "float16"]) == 2
    assert "dtype (--dtype)" in capsys.readouterr().err


def test_samples_during_a_run_use_its_dtype_and_attention(tmp_path, model, made):
    records = write_records(tmp_path, 2)
    sizes = zip(COMPONENTS, SETTINGS.slots_px, strict=True)
    config = config_lib.load_config(
        "configs/tiny.py",
        [
            f"--config.data.records={records}",
            *(f"--config.canvas.{name}={size}" for name, size in sizes),
            *("--config.train.attention=xla", "--config.train.compute_dtype=bfloat16"),
            *("--config.log.samples=2", "--config.log.samples_every_steps=1"),
            "--config.eval.split=test",
        ],
    )
    make_sample_images(config, model)
    settings = config_lib.make_evaluation_settings(config)
    training_evaluation.make_sample_scores(model, settings)
    assert [(how["dtype"], how["attention"]) for how in made] == [("bfloat16", "xla")] * 2


def test_the_sampler_logs_its_devices_and_kernel(model, caplog):
    with caplog.at_level("INFO"):
        Sampler(model, STEPS)
    assert "sampling in float32 on 1 x cpu; attention among image tokens: xla" in caplog.text


def test_rates_count_the_devices_of_the_mesh(model):
    """Not of all that the process sees, nor of the first."""
    h100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    peak = CHIPS["h100"].bf16_flops
    for cost in (
        compute_unet_cost(model, 8, encodes=False, devices=[h100] * 3),
        compute_vae_cost(get_vae_config("xs"), 64, 8, decoder_only=False, devices=[h100] * 3),
    ):
        assert (cost.devices, cost.peak_flops) == (3, peak)
