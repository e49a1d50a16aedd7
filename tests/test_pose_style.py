"""The look of a model's pose maps is one thing from the renderer to the sampler."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_viton as tiny

import omfa_jax
from omfa_jax.body.body_file import load_body, save_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_maps import SETTINGS_FILE, render_folder
from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_eval_iterator
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import record_schema
from omfa_jax.models import get_vae_config
from omfa_jax.sampling.image_inputs import SlotFitter, render_pose

BASE = Path(__file__).parents[1] / "configs" / "base.py"
TINY = Path(omfa_jax.__file__).parent / "assets" / "tiny"
SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
CAMERA = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=100.0, width_px=48, height_px=64)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A folder with one body file."""
    folder = tmp_path_factory.mktemp("bodies") / "smplx"
    folder.mkdir()
    save_body(folder / "00000_00.npz", make_neutral_params(), CAMERA)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory, body):
    """A raw folder whose pose maps are positions."""
    folder = tiny.write_raw(tmp_path_factory.mktemp("styled") / "raw", {"train": 2, "val": 1})
    for split in ("train", "val"):
        shutil.rmtree(folder / split / "pose")
        report = render_folder(body, folder / split / "pose", style="positions", backend="zbuffer")
        assert not report.failed
    return folder


def first_batch(records, style):
    settings = PipelineSettings(str(records), SLOTS, pose_style=style, vae_id="v", threads=0)
    return next(make_eval_iterator(settings, split="train", batch_size=2))


def test_records_and_latents_know_their_style_and_refuse_another(raw, tmp_path):
    records, latents = tmp_path / "records", tmp_path / "latents"
    build_records(raw, records)
    write_latents(records, latents, lambda x: x[:, ::8, ::8], slots=SLOTS, vae_id="v")
    for folder in (records, latents):
        assert record_schema.read_manifest(folder)["pose_style"] == "positions"
        assert len(first_batch(folder, "positions")["has_pose"]) == 2
        with pytest.raises(OmfaError, match=r"style 'normals', found 'positions'.*pose_style"):
            first_batch(folder, "normals")


def test_maps_from_elsewhere_are_taken_as_they_are(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"train": 2})
    build_records(raw, tmp_path / "records")
    assert record_schema.read_manifest(tmp_path / "records")["pose_style"] is None
    assert len(first_batch(tmp_path / "records", "parts")["has_pose"]) == 2


def test_splits_of_several_styles_are_refused(raw, tmp_path):
    mixed = shutil.copytree(raw, tmp_path / "raw")
    note = mixed / "val" / "pose" / SETTINGS_FILE
    note.write_text(json.dumps({**json.loads(note.read_text()), "style": "parts"}))
    with pytest.raises(OmfaError, match=r"of one style, found parts, positions"):
        build_records(mixed, tmp_path / "records")
    note.write_text("{}")
    with pytest.raises(OmfaError, match=r"damaged; `omfa data poses --overwrite` renders all of"):
        build_records(mixed, tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_the_config_says_it_and_the_sampler_draws_it(body):
    style = "--config.data.pose_style="
    settings = config_lib.make_diffusion_settings(
        config_lib.load_config(BASE, [f"{style}parts"]), get_vae_config("sdxl")
    )
    assert type(settings).from_json(json.loads(json.dumps(settings.to_json()))) == settings
    with pytest.raises(OmfaError, match="did you mean 'positions'"):
        config_lib.make_diffusion_settings(
            config_lib.load_config(BASE, [f"{style}position"]), get_vae_config("sdxl")
        )
    model = load_body_model()
    vertices, _ = forward(model, make_neutral_params())
    for style in ("normals", "parts"):
        slots = SlotFitter(dataclasses.replace(settings, pose_style=style))
        drawn = render_pose(*load_body(body / "00000_00.npz"), slots.pose_style, None)
        wanted = render(vertices, model.faces, CAMERA, style, body=model)
        np.testing.assert_array_equal(drawn, wanted)


def test_older_models_were_trained_on_normals():
    settings = config_lib.make_diffusion_settings(
        config_lib.load_config(BASE), get_vae_config("sdxl")
    )
    fields = settings.to_json()
    del fields["pose_style"]
    assert type(settings).from_json(fields).pose_style == "normals"


def test_latents_and_studies_are_refused_before_any_work(raw, tmp_path, capsys):
    records, model, out = tmp_path / "records", tmp_path / "model", tmp_path / "out"
    build_records(raw, records)
    # nothing heavy can have begun without the weights
    shutil.copytree(TINY, model, ignore=shutil.ignore_patterns("*model*.safetensors"))
    latents = ["data", "latents", f"--records={records}", f"--model={model}", f"--out={out}"]
    study = ["scaling", "plan", f"--out={out}", "--sizes=tiny", "--samples=100"]
    data = [f"--config.data.records={records}"]
    mixture = [f"--config.data.mixture={records}=1"]
    said = "records: expected pose maps of style 'normals', found 'positions'"
    for words in (latents, [*study, *data], [*study, *mixture, "--dataset-size=9"]):
        assert main([*words, f"--config={BASE}"]) == 2
        assert said in capsys.readouterr().err and not out.exists()
