"""From record files through the command line to a trained model, stopped and begun again."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_viton as tiny
from one_device import use_one_device
from tiny_model import VAE
from tiny_training import UNET

from omfa_jax.cli.main import main
from omfa_jax.core.trees import flatten
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.models.presets import UNETS, VAES
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.weights.model_folder import load_model_folder
from omfa_jax.weights.vae_fingerprint import fingerprint_vae

SMALL = [
    "--config.canvas.garment=(64,48)",
    "--config.canvas.person=(64,48)",
    "--config.canvas.face=(16,16)",
    "--config.train.batch_size=8",
    "--config.optimizer.name=adamw",
    "--config.optimizer.warmup_steps=1",
    "--config.optimizer.lr_schedule=constant",
    "--config.log.every_steps=1",
]
EVALUATED = [
    "--config.eval.every_steps=2",
    "--config.eval.split=train",
    "--config.eval.examples=0",
    "--config.eval.loss_examples=9",
    "--config.eval.loss_timesteps=4",
]


@pytest.fixture(autouse=True, scope="module")
def _small_presets():
    """The commands' presets with fewer channels and no attention, which compile in less time."""
    small = dataclasses.replace(UNET, in_channels=4, out_channels=4, transformer_depth=(0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UNETS, "tiny", small)
        patch.setitem(VAES, "tiny", VAE)
        yield


def omfa_train(config, workdir, steps, *more):
    flags = [f"--config=configs/{config}.py", f"--workdir={workdir}"]
    assert main(["train", *flags, *SMALL, f"--config.train.steps={steps}", *map(str, more)]) == 0


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    build_records(tiny.write_raw(root / "raw", {"train": 9}), root / "records")
    return root / "records"


@pytest.fixture(scope="module")
def autoencoder(records, tmp_path_factory):
    """Return the model folder of a VAE trained for two steps."""
    workdir = tmp_path_factory.mktemp("vae")
    flags = [f"--config.data.records={records}", "--config.autoencoder.crop_px=16"]
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        omfa_train("tiny_vae", workdir, 2, *flags)
    return workdir / "model"


def test_a_new_autoencoder_has_latents_of_unit_spread(autoencoder):
    model = load_model_folder(autoencoder)
    assert model.vae_config.scaling_factor not in (0.0, 0.13025)
    assert np.isfinite(model.vae_config.scaling_factor)
    assert model.unet_params is None


def test_a_decoder_alone_keeps_the_latents(autoencoder, records, tmp_path, monkeypatch):
    use_one_device(monkeypatch)
    flags = [
        f"--config.autoencoder.decoder_of={autoencoder}",
        f"--config.data.records={records}",
        "--config.autoencoder.crop_px=16",
    ]
    omfa_train("tiny_decoder", tmp_path, 2, *flags)
    before, after = load_model_folder(autoencoder), load_model_folder(tmp_path / "model")
    assert after.vae_config == before.vae_config
    assert fingerprint_vae(after.vae_config, after.vae_params) == fingerprint_vae(
        before.vae_config, before.vae_params
    )
    moved = {
        path[0]
        for (path, a), (_, b) in zip(
            flatten(before.vae_params), flatten(after.vae_params), strict=True
        )
        if not np.array_equal(a, b)
    }
    assert moved == {"decoder", "post_quant_conv"}


@pytest.fixture(scope="module")
def latents(autoencoder, records, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoded") / "latents"
    flags = ["--config=configs/tiny.py", *SMALL, f"--records={records}"]
    assert main(["data", "latents", *flags, f"--model={autoencoder}", f"--out={out}"]) == 0
    return out


def test_a_stopped_run_goes_on_with_the_next_records(autoencoder, latents, tmp_path):
    """4 = 2 + restart + 2 with the real pipeline: weights, EMA, losses, and so the batches.

    The run in parts is evaluated on the way, which changes nothing.
    """
    flags = [f"--config.model.init={autoencoder}", f"--config.data.latents={latents}"]
    for workdir, steps, more in (("straight", (4,), []), ("parts", (2, 4), EVALUATED)):
        for until in steps:
            omfa_train("tiny", tmp_path / workdir, until, *flags, *more)
    for ema in (True, False):
        whole, step = restore_params(tmp_path / "straight", ema=ema)
        parts, _ = restore_params(tmp_path / "parts", ema=ema)
        assert step == 4
        for (path, a), (_, b) in zip(flatten(whole), flatten(parts), strict=True):
            np.testing.assert_array_equal(a, b, err_msg="/".join(path))

    def rows(workdir):
        lines = (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if "loss" in row]

    def losses(workdir):
        return [(row["step"], row["loss"]) for row in rows(workdir)]

    last = rows("parts")[-1]
    assert last["samples"] == 32 and last["flops"] == 32 * rows("parts")[0]["flops"] / 8
    assert last["params"] == sum(leaf.size for _, leaf in flatten(whole))
    figures = ("step_seconds/p95", "data_wait", "goodput", "seconds/restore", "grad_norm")
    assert all(last[name] > 0 for name in figures), last
    assert losses("straight") == losses("parts")
    assert len({loss for _, loss in losses("straight")}) == 4
    written = map(json.loads, (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines())
    figures = {row["step"]: row["eval/loss"] for row in written if "eval/loss" in row}
    assert sorted(figures) == [2, 4] and figures[2] != figures[4]


def test_latents_of_another_vae_are_refused(latents, tmp_path, capsys):
    flags = [f"--config.data.latents={latents}", "--config=configs/tiny.py", *SMALL]
    assert main(["train", f"--workdir={tmp_path}", *flags]) == 2
    assert read_manifest(str(latents))["latents"]["vae_id"] in capsys.readouterr().err
