"""What a source says of its schedule and prediction is read, compared with the config, and said."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import SMALL_UNET, SMALL_VAE
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, torch_unet, torch_vae

import convert_weights
from omfa_jax.cli import config_lib
from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import ScheduleSettings, compute_alphas_cumprod
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.weights.diffusers_configs import SDXL_SCHEDULER

CONFIG = Path(__file__).parents[1] / "configs" / "base.py"
PLAIN = compute_alphas_cumprod(ScheduleSettings()).astype(np.float32)
ZERO = compute_alphas_cumprod(ScheduleSettings(zero_terminal_snr=True)).astype(np.float32)
IGNORE = "--config.model.ignore_scheduler=true"
V = "--config.diffusion.prediction=v"
ZERO_SNR = "--config.diffusion.zero_terminal_snr=true"
TRAILING = "--config.diffusion.spacing=trailing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model in diffusers' form that says nothing of its scheduler."""
    folder = tmp_path_factory.mktemp("source") / "sdxl"
    torch_unet(SMALL_UNET).save_pretrained(folder / "unet")
    torch_vae(SMALL_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def networks():
    return in_one_file(get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE)))


def saying(folder, tmp_path, fields):
    """Return a copy of the folder with a scheduler_config.json of SDXL's and `fields`."""
    copy = shutil.copytree(folder, tmp_path / "said")
    (copy / "scheduler").mkdir()
    whole = {**SDXL_SCHEDULER, **fields}
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps(whole))
    return copy


def run(capsys, source, out, *flags, config=True):
    """Import; return (exit status, lines of stdout and stderr)."""
    capsys.readouterr()
    arguments = ["import", source, "--out", out]
    if config:
        arguments += ["--config", CONFIG, "--null-prompts"]
    status = convert_weights.main([*map(str, arguments), *flags])
    came = capsys.readouterr()
    return status, (came.out + came.err).splitlines()


FOLDERS = {
    "v": ({"prediction_type": "v_prediction"}, [V]),
    "zero": ({"rescale_betas_zero_snr": True}, [ZERO_SNR]),
    "v and zero": (
        {
            "_class_name": "DDIMScheduler",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        [V, ZERO_SNR],
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_refused_with_the_keys_to_set(folder, tmp_path, capsys, name):
    fields, flags = FOLDERS[name]
    source = saying(folder, tmp_path, fields)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 2 and len(lines) == 1 and not (tmp_path / "out").exists()
    for flag in flags:
        key, value = flag.removeprefix("--").split("=")
        shown = {"true": "True"}.get(value, repr(value))
        assert f"{key}={shown}" in lines[0]
    assert IGNORE in lines[0] and f"{source} was trained with" in lines[0]
    for key, value in fields.items():
        if key not in ("_class_name", "timestep_spacing"):
            assert f"scheduler_config.json: {key}={value!r}" in lines[0]
    assert run(capsys, source, tmp_path / "out", *flags)[0] == 0


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"timestep_spacing": "trailing"}, TRAILING),
        ({"steps_offset": 0}, "--config.diffusion.steps_offset=0"),
    ],
)
def test_what_only_the_sampler_does_otherwise_is_a_note(folder, tmp_path, capsys, fields, flag):
    """SDXL-Turbo and Lightning are sampled with trailing timesteps; their weights mean the same."""
    source = saying(folder, tmp_path, fields)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 0 and sum(flag in line for line in lines) == 1
    status, lines = run(capsys, source, tmp_path / "out", flag)
    assert status == 0 and not any("sampled" in line for line in lines)


# what no setting is
OTHERS = {
    "FlowMatchEulerDiscreteScheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "flow matching": {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
    "EDM": {"_class_name": "EDMDPMSolverMultistepScheduler"},
    "WeirdScheduler": {"_class_name": "WeirdScheduler"},
    "beta_schedule='linear'": {"beta_schedule": "linear"},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "beta_end=0.02": {"beta_end": 0.02},
    "num_train_timesteps=500": {"num_train_timesteps": 500},
    "trained_betas": {"trained_betas": [0.1, 0.2]},
    "prediction_type='sample'": {"prediction_type": "sample"},
    "rescale_betas_zero_snr='perhaps'": {"rescale_betas_zero_snr": "perhaps"},
    "timestep_type='continuous'": {
        "timestep_type": "continuous",
        "sigma_max": 120.0,
        "sigma_min": 0.002,
        "prediction_type": "v_prediction",
    },
    "snr_shift_scale=3.0": {"snr_shift_scale": 3.0},
}


@pytest.mark.parametrize("word", OTHERS)
def test_what_cannot_be_trained_here_is_refused_or_said(folder, tmp_path, capsys, word):
    source = saying(folder, tmp_path, OTHERS[word])
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 2 and len(lines) == 1 and word in lines[0] and IGNORE in lines[0]
    assert "which config.diffusion cannot express" in lines[0]
    status, lines = run(capsys, source, tmp_path / "out", IGNORE)
    assert status == 0 and any(word in line for line in lines)
    status, lines = run(capsys, source, tmp_path / "out", config=False)
    assert status == 0 and any(word in line for line in lines)


@pytest.mark.parametrize("table", [1 - PLAIN / np.append(1, PLAIN[:-1]), None])
def test_sdxls_own_schedule_is_let_pass_however_it_is_written(folder, tmp_path, capsys, table):
    fields = {"trained_betas": table.tolist()} if table is not None else {"beta_end": 0.0120000001}
    assert run(capsys, saying(folder, tmp_path, fields), tmp_path / "out")[0] == 0


def test_a_source_that_says_nothing_is_epsilon_and_that_is_said(folder, tmp_path, capsys):
    status, lines = run(capsys, folder, tmp_path / "out")
    assert status == 0
    assert "it does not state its prediction type: assuming epsilon, as in SDXL" in lines
    status, lines = run(capsys, folder, tmp_path / "other", V)
    assert status == 2 and "set config.diffusion.prediction='epsilon'" in lines[0]
    # many schedulers of diffusers' have no word for it
    status, lines = run(capsys, folder, tmp_path / "zero", ZERO_SNR)
    assert status == 0 and "does not state zero terminal SNR" in "\n".join(lines)


# (tensors beside the networks, metadata) -> flags that agree
FILES = {
    "v_pred": ({"v_pred": np.zeros(0, np.float32)}, {}, [V]),
    "v_pred, ztsnr": (
        {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)},
        {},
        [V, ZERO_SNR],
    ),
    "modelspec": ({}, {"modelspec.prediction_type": "v"}, [V]),
    "ComfyUI": ({}, {"modelspec.predict_key": "v"}, [V]),
    "sd-scripts": (
        {},
        {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
        [V, ZERO_SNR],
    ),
    "alphas_cumprod": ({"alphas_cumprod": ZERO.astype(np.float16)}, {}, [ZERO_SNR]),
    "betas": ({"betas": 1 - ZERO / np.append(1, ZERO[:-1]).astype(np.float32)}, {}, [ZERO_SNR]),
    "denoiser.sigmas": (
        {"denoiser.sigmas": np.sqrt(1 / np.maximum(ZERO, 2.0**-24) - 1)},
        {},
        [ZERO_SNR],
    ),
    "sigmas": ({"sigmas": np.sqrt(1 / np.maximum(ZERO, 2.0**-24) - 1)}, {}, [ZERO_SNR]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_single_file_is_refused_with_the_keys_to_set(networks, tmp_path, capsys, name):
    extra, metadata, flags = FILES[name]
    source = tmp_path / "sdxl.safetensors"
    save_file({**networks, **extra}, source, metadata)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 2 and len(lines) == 1 and IGNORE in lines[0]
    for said in (*extra, *metadata):
        assert said in lines[0]
    for flag in flags:
        assert flag.removeprefix("--").split("=")[0] in lines[0]
    assert run(capsys, source, tmp_path / "out", *flags)[0] == 0
    # an export says to diffusers what the source said
    fields = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert fields["prediction_type"] == ("v_prediction" if V in flags else "epsilon")
    assert fields.get("rescale_betas_zero_snr", False) == (ZERO_SNR in flags)
    assert fields["timestep_spacing"] == ("trailing" if flags == [V, ZERO_SNR] else "leading")


@pytest.mark.parametrize("key", ["edm_mean", "edm_vpred.sigma_max", "alphas_cumprod"])
def test_a_single_file_of_another_diffusion_is_refused(networks, tmp_path, capsys, key):
    source = tmp_path / "other.safetensors"
    save_file({**networks, key: np.linspace(1, 0.1, 1000, dtype=np.float32)}, source)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 2 and len(lines) == 1 and f"(its tensor {key})" in lines[0]
    assert run(capsys, source, tmp_path / "out", "--ignore-scheduler")[0] == 0


def test_a_source_that_contradicts_itself_is_refused(networks, tmp_path, capsys):
    source = tmp_path / "merged.safetensors"
    marked = {**networks, "v_pred": np.zeros(0, np.float32)}
    save_file(marked, source, {"modelspec.prediction_type": "epsilon"})
    for flags in ((), (V,)):
        status, lines = run(capsys, source, tmp_path / "out", *flags)
        assert status == 2 and "contradicts itself: epsilon-prediction (metadata" in lines[0]
    assert run(capsys, source, tmp_path / "out", V, IGNORE)[0] == 0


CONSTANTS = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
    *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "logvar"),
    *("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance"),
    *("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    *("lvlb_weights", "logit_scale", "embeddings.position_ids", "global_step"),
    *("model_ema.decay", "denoiser.sigmas", "denoiser.log_sigmas"),
    *("sigmas", "log_sigmas"),
)


def test_constants_of_the_schedule_are_no_unexpected_tensors(networks, tmp_path, capsys):
    extra = {key: np.zeros(1000, np.float32) for key in CONSTANTS}
    extra |= {"betas": 1 - PLAIN / np.append(1, PLAIN[:-1]), "alphas_cumprod": PLAIN}
    extra |= dict.fromkeys(("denoiser.sigmas", "sigmas"), np.sqrt(1 / PLAIN - 1)[::-1])
    extra["embeddings.position_ids"] = np.arange(77)[None]
    source = tmp_path / "sdxl.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in {**networks, **extra}.items()}, source)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 0
    assert any(
        "tensors that belong to no network (alphas_cumprod, alphas" in line for line in lines
    )
    save_file({**networks, "stray": np.zeros(3, np.float32)}, source)
    status, lines = run(capsys, source, tmp_path / "out")
    assert status == 2 and "  + stray" in lines


# training


def bundle_of(init, *flags):
    fitting = [f"--config.model.init={init}", "--config.diffusion.unet_inputs=('noisy','mask')"]
    config = config_lib.load_config(CONFIG, [*fitting, *flags])
    return load_initial_model(config_lib.make_weights_source(config), None)


@pytest.mark.parametrize("form", ["diffusers", "imported", "single file"])
def test_training_compares_what_it_starts_from(folder, networks, tmp_path, capsys, caplog, form):
    caplog.set_level(logging.INFO)
    if form == "single file":
        source = tmp_path / "sdxl.safetensors"
        save_file({**networks, "v_pred": np.zeros(0, np.float32)}, source)
        said = "its tensor v_pred"
    else:
        source = saying(folder, tmp_path, {"prediction_type": "v_prediction"})
        said = "scheduler_config.json: prediction_type='v_prediction'"
    init = tmp_path / "imported"
    if form == "diffusers":
        # a prompt table makes the folder one to train from
        assert run(capsys, source, init, V)[0] == 0
        shutil.copy(init / "prompts.safetensors", source)
        init = source
    else:
        prompts = ["the garment worn by the person", "a person wearing the garment"]
        flags = [f"--prompt={prompt}" for prompt in prompts]
        assert run(capsys, source, init, "--null-prompts", *flags, config=False)[0] == 0
    with pytest.raises(OmfaError) as refused:
        bundle_of(init)
    line = str(refused.value)
    assert line.startswith(f"{init} was trained with v-prediction ({said}), this config has")
    assert "set config.diffusion.prediction='v'" in line and "\n" not in line
    assert bundle_of(init, V).settings.prediction == "v"
    caplog.clear()
    assert bundle_of(init, IGNORE).settings.prediction == "epsilon"
    assert "training anyway" in caplog.text
    # the VAE and the prompts alone have no schedule
    only = ["--config.model.init_unet=false", "--config.model.unet=tiny"]
    if form != "single file":
        assert bundle_of(init, *only).unet_params is None
