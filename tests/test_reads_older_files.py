"""Files written by commit 3825719, before flags, config keys and modules were renamed, still work.

`tools/make_compat_fixture.py` made them, with the old config keys in the checkpoint. The tests use
the command line, because that is what people have in their scripts, and no flag that was renamed.
"""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from one_device import use_one_device

import convert_weights
from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.core.images import write_image
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.weights.imported_folder import read_statements

ARCHIVE = Path(__file__).parent / "fixtures" / "before_renaming.tar.xz"
TINY = Path(__file__).parents[1] / "configs" / "tiny.py"
CANVAS = (
    "--config.canvas.garment=(64, 48)",
    "--config.canvas.person=(64, 48)",
    "--config.canvas.face=(32, 32)",
    "--config.model.init_unet=true",
)


@pytest.fixture(autouse=True, scope="module")
def _one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        yield


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "before_renaming"


def omfa(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def convert(*arguments) -> None:
    assert convert_weights.main([str(argument) for argument in arguments]) == 0


def sample(model: Path, out: Path) -> list[str]:
    """Sample a try-on from `model` and return the names of the files written."""
    picture, pose = (out.parent / f"{name}.png" for name in ("picture", "pose"))
    write_image(picture, np.full((64, 48, 3), 200, np.uint8))
    write_image(pose, np.zeros((64, 48, 3), np.uint8))
    given = ("--garment", picture, "--face", picture, "--pose", pose, "--steps", 2)
    omfa("sample", "--checkpoint", model, "--task", "try_on", "--out", out, *given)
    return sorted(path.name for path in out.glob("*.png"))


def test_a_training_run_resumes(older, tmp_path, caplog):
    caplog.set_level("INFO")
    workdir = shutil.copytree(older / "run", tmp_path / "run")
    rows_before = (workdir / "metrics.jsonl").read_text()
    flags = (
        f"--config.data.latents={older / 'latents'}",
        f"--config.model.init={older / 'imported'}",
        "--config.train.batch_size=8",
        # those it has: a step more would compile what every run compiles
        "--config.train.steps=2",
        "--config.checkpoint.every_steps=1",
        "--config.log.every_steps=1",
        "--config.log.samples_every_steps=0",
    )
    omfa("train", "--config", "configs/tiny.py", "--workdir", workdir, *CANVAS, *flags)
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [2]
    assert any("resumed from step 2" in line for line in caplog.messages)
    text = (workdir / "metrics.jsonl").read_text()
    assert text.startswith(rows_before)
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2]
    # the saved config has the old keys; only what this test changed differs from it
    lines = [line for line in caplog.messages if "config." in line and " -> " in line]
    changed = {line.split("config.")[1].split(":")[0] for line in lines}
    assert changed == {"data.latents", "model.init"}


def test_a_run_and_its_export_can_be_sampled(older, tmp_path):
    for name in ("run", "exported"):
        assert "try_on_00.png" in sample(older / name, tmp_path / name)


def test_records_and_latents_are_sound(older, tmp_path):
    for name in ("records", "latents"):
        omfa("data", "check", "--records", older / name)
    omfa("data", "show", "--records", older / "records", "--out", tmp_path / "sheet.png")


def test_records_can_be_encoded_again(older, tmp_path):
    given = ("--records", older / "records", "--model", older / "imported")
    config = ("--config", "configs/tiny.py", *CANVAS)
    omfa("data", "latents", *given, "--out", tmp_path / "latents", *config)
    omfa("data", "check", "--records", tmp_path / "latents")


def test_training_can_start_from_an_imported_folder(older):
    config = config_lib.load_config(TINY, [*CANVAS, f"--config.model.init={older / 'imported'}"])
    model = load_initial_model(config_lib.make_weights_source(config), None)
    assert model.unet_params is not None
    # the folder states its source's prediction type, which is compared with the config's
    statement = read_statements(older / "imported")[0]
    assert (statement.field, statement.value) == ("prediction", "v")
    assert "v_prediction" in statement.quote


def test_imported_and_exported_folders_can_be_converted(older, tmp_path):
    convert("export", older / "imported", "--out", tmp_path / "exported")
    for name in ("unet", "vae"):
        assert (tmp_path / "exported" / name / "diffusion_pytorch_model.safetensors").is_file()
    convert("import", older / "exported", "--out", tmp_path / "imported")
    # a later export replaces a folder that an earlier version wrote
    again = shutil.copytree(older / "exported", tmp_path / "again")
    convert("export", older / "run", "--out", again, "--weights", "raw")


def test_a_scores_file_can_be_reported(older, tmp_path):
    table = tmp_path / "table.csv"
    page = ("--out", tmp_path / "report.html", "--examples", 0)
    omfa("eval", "report", older / "scores.json", *page, "--csv", table)
    assert "ssim" in table.read_text().lower()


def test_a_study_knows_its_finished_run(older, tmp_path):
    study = shutil.copytree(older / "study", tmp_path / "study")
    omfa("scaling", "table", study, "--out", tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    result = json.loads((study / "runs" / rows[0]["name"] / "result.json").read_text())
    assert [float(row["loss"]) for row in rows] == [result["losses"]["loss"]]
    # a finished run is not trained again
    omfa("scaling", "run", study, "--only", rows[0]["name"])


def test_a_study_can_be_planned_again(older, tmp_path, monkeypatch):
    study = shutil.copytree(older / "study", tmp_path / "study")
    before = (study / "configs" / "tiny_400.py").read_text()
    # the study's data and weights have relative paths
    monkeypatch.chdir(older)
    flags = (
        "--config.data.latents=latents",
        "--config.model.init=imported",
        "--config.model.init_unet=false",
        "--config.train.batch_size=8",
        "--config.log.every_steps=1",
        "--config.log.samples_every_steps=0",
    )
    sizes = ("--sizes", "tiny", "--samples", "400,408,800", "--min-steps", 1)
    omfa("scaling", "plan", "--config", TINY, "--out", study, *sizes, *CANVAS[:3], *flags)
    runs = [run["name"] for run in json.loads((study / "study.json").read_text())["runs"]]
    assert runs == ["tiny_400", "tiny_408", "tiny_800"]
    # only the values are compared: the file keeps its old key names
    assert (study / "configs" / "tiny_400.py").read_text() == before
