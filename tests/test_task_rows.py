"""Rows of the task table beside try_on and try_off: sampled and evaluated from the command line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_model import make_tiny_model, save_tiny_model, write_records
from tiny_training import SETTINGS

from omfa_jax.cli.main import main
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals.scores_file import read_scores
from omfa_jax.model_loading import load_model
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.sampler import Sampler

ROWS = (
    Task("joint", ("garment", "person"), 1.0, "both"),
    Task("portrait", ("face",), 1.0, "face"),
    Task("anything", COMPONENTS, 1.0, "all"),
)
PEOPLE = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder of a model that has ROWS beside try_on and try_off."""
    model = make_tiny_model()
    settings = dataclasses.replace(SETTINGS, tasks=(*SETTINGS.tasks, *ROWS))
    rng = np.random.default_rng(1)
    # a row a task, and the empty prompt
    prompts = {
        "context": rng.standard_normal((6, 2, 8), np.float32),
        "pooled": rng.standard_normal((6, 8), np.float32),
    }
    model = dataclasses.replace(model, settings=settings, prompts=prompts)
    return save_tiny_model(tmp_path_factory.mktemp("rows") / "model", model)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), PEOPLE)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8))
    return path


def sample(model, task, out, *more):
    words = ["sample", f"--checkpoint={model}", f"--task={task}", f"--out={out}", "--steps=2"]
    return main([*words, "--seed=5", *map(str, more)])


def names(folder):
    return {path.name for path in folder.glob("*.png")}


def test_a_row_takes_its_clean_components_and_writes_its_noised_ones(
    model, image, tmp_path, capsys
):
    assert sample(model, "joint", tmp_path, f"--face={image}") == 0
    assert names(tmp_path) == {"garment_00.png", "person_00.png", "sheet.png"}
    said = json.loads((tmp_path / "joint.json").read_text())
    assert said["seed"] == 5 and said["sampler"]["steps"] == 2 and said["dtype"] == "float32"
    assert said["images_px"] == {"garment_00.png": [32, 32], "person_00.png": [32, 32]}
    assert said["inputs"] == {"face": str(image)} and said["checkpoint"] == str(model)
    assert "2/2" in capsys.readouterr().err
    bundle = load_model(model)
    face = SlotFitter(bundle.settings).load_image("face", str(image), "--face")
    # reported steps do not change the images
    steps = []
    sampler = Sampler(
        bundle, SamplerSettings(steps=2), on_step=lambda done: steps.append(int(done))
    )
    expected = sampler("joint", {"face": face}, None, seed=5)
    assert steps == [0, 1]
    for name, images in expected.items():
        np.testing.assert_array_equal(read_rgb(tmp_path / f"{name}_00.png", name), images[0])

    one, pose = tmp_path / "portrait", f"--pose={tmp_path / 'pose.png'}"
    write_image(tmp_path / "pose.png", np.zeros((32, 32, 3), np.uint8))
    assert sample(model, "portrait", one, f"--garment={image}", f"--person={image}", pose) == 0
    assert names(one) == {"face_00.png", "sheet.png"}


def test_a_row_without_inputs_generates_one_example(model, tmp_path):
    assert sample(model, "anything", tmp_path) == 0
    assert names(tmp_path) == {*(f"{name}_00.png" for name in COMPONENTS), "sheet.png"}


def test_flags_that_do_not_fit_a_row(model, image, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    for task, more, said in (
        ("joint", [], "--task joint needs --face, or --person to crop it from"),
        ("portrait", [f"--garment={image}"], "--task portrait needs --person"),
        ("jont", [], "did you mean 'joint'"),
        ("tryon", [], "did you mean 'try_on'"),
    ):
        assert sample(model, task, out, *more) == 2
        assert said in capsys.readouterr().err
    # a misspelt task is found before the weights are read, which takes minutes for SDXL
    without_weights = tmp_path / "settings"
    ignore = shutil.ignore_patterns("*model*.safetensors")
    shutil.copytree(model, without_weights, ignore=ignore)
    assert sample(without_weights, "jont", out) == 2
    assert "did you mean 'joint'" in capsys.readouterr().err

    write_image(out / "person_00.png", np.zeros((8, 8, 3), np.uint8))
    # --person serves the face here, and its file would be overwritten
    assert sample(model, "joint", out, f"--person={out / 'person_00.png'}") == 2
    assert "--person" in capsys.readouterr().err and names(out) == {"person_00.png"}
    assert sample(model, "joint", tmp_path, f"--face={image}", f"--garment={image}") == 0
    assert "--garment is not used: task joint generates it" in caplog.text


def evaluate(model, records, task, out, *more):
    words = ["eval", f"--checkpoint={model}", f"--data={records}", f"--task={task}", f"--out={out}"]
    return main([*words, "--steps=2", "--guidance=1", "--seed=3", "--workers=1", *more])


def test_a_row_is_scored_by_component(model, records, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(model, records, "joint", out, "--loss", "--loss-timesteps=4") == 0
    said = capsys.readouterr().out
    assert "joint, person: " in said and "joint, garment: " in said and "loss/joint" in said
    for component, setting in (("person", "paired"), ("garment", "try_off")):
        scores = read_scores(out / component / "scores.json")
        assert scores.protocol.setting == setting and scores.counts.scored == PEOPLE
        assert len(names(out / component / "pred")) == PEOPLE
    images = {path: path.stat().st_mtime_ns for path in out.glob("*/pred/*.png")}
    (lost, *kept) = images
    lost.unlink()
    before = {path: path.read_bytes() for path in kept}
    assert evaluate(model, records, "joint", out) == 0
    # only what is missing is written again
    assert {path: path.read_bytes() for path in kept} == before and lost.is_file()
    assert all(path.stat().st_mtime_ns == images[path] for path in kept)
    capsys.readouterr()
    assert evaluate(model, records, "anything", out) == 2
    assert "another run (checkpoint" in (said := capsys.readouterr().err) or "(task" in said


def test_rows_that_cannot_be_scored(model, records, tmp_path, capsys):
    for task, more, said in (
        ("portrait", [], "generates only face, for which no protocol has a setting"),
        ("jont", [], "did you mean 'joint'"),
        ("joint", ["--setting=paired"], "--setting is only for --task try_on and try_off"),
        ("joint", ["--influence"], "--influence is only for --task try_on and try_off"),
    ):
        assert evaluate(model, records, task, tmp_path / "out", *more) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/pred"))
