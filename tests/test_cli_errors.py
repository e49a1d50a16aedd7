"""What a user meets who gives wrong input: one line that says what to change, exit status 2."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omfa_jax
from omfa_jax.cli.main import main
from omfa_jax.core.images import write_image

TINY = Path(omfa_jax.__file__).parent / "assets" / "tiny"


def fails(capsys, *arguments):
    """Run `omfa`, expect status 2 and one line on the terminal; return it."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("omfa ")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "shirt.png"
    write_image(path, np.full((128, 96, 3), 200, np.uint8))
    return path


def sample(task, out, *more, checkpoint=TINY):
    return ("sample", "--checkpoint", checkpoint, "--task", task, "--out", out, *more)


def test_unknown_task(capsys, tmp_path):
    assert "did you mean 'try_on'" in fails(capsys, *sample("tryon", tmp_path))


def test_unknown_sampler(capsys, tmp_path, picture):
    given = ("--garment", picture, "--face", picture, "--sampler", "eular")
    assert "did you mean 'euler'" in fails(capsys, *sample("try_on", tmp_path, *given))


@pytest.mark.parametrize(
    ("task", "flag"),
    [("try_on", "--garment"), ("try_off", "--person"), ("transfer", "--source-person")],
)
def test_a_missing_input_names_its_flag(capsys, tmp_path, task, flag):
    assert f"needs {flag}" in fails(capsys, *sample(task, tmp_path))


def test_no_model_there(capsys, tmp_path, picture):
    line = fails(
        capsys,
        *sample("try_on", tmp_path, "--garment", picture, "--face", picture, checkpoint="nowhere"),
    )
    assert "no model at nowhere" in line and "--checkpoint" in line


def test_missing_file(capsys, tmp_path, picture):
    absent = tmp_path / "absent.jpg"
    line = fails(capsys, *sample("try_on", tmp_path, "--garment", absent, "--face", picture))
    assert "absent.jpg" in line and "--garment" in line


def test_truncated_jpeg(capsys, tmp_path, picture):
    whole, broken = tmp_path / "whole.jpg", tmp_path / "broken.jpg"
    write_image(whole, np.random.default_rng(0).integers(0, 255, (128, 96, 3)).astype(np.uint8))
    broken.write_bytes(whole.read_bytes()[:900])
    line = fails(capsys, *sample("try_on", tmp_path, "--garment", broken, "--face", picture))
    assert "broken.jpg" in line


def test_one_pixel(capsys, tmp_path, picture):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    line = fails(
        capsys, *sample("try_on", tmp_path, "--garment", tmp_path / "dot.png", "--face", picture)
    )
    assert "too small (1x1 px)" in line


def test_no_face_in_the_photo(capsys, tmp_path, picture):
    line = fails(capsys, *sample("try_on", tmp_path, "--garment", picture, "--person", picture))
    assert "no person found" in line and "--face" in line


def test_a_picture_cannot_be_turned(capsys, tmp_path, picture):
    pose = tmp_path / "pose.png"
    write_image(pose, np.zeros((64, 48, 3), np.uint8))
    line = fails(
        capsys,
        *sample("turntable", tmp_path, "--garment", picture, "--face", picture, "--pose", pose),
    )
    assert "an image cannot be turned" in line


def test_a_broken_pose_file(capsys, tmp_path, picture):
    broken = tmp_path / "body.npz"
    broken.write_bytes(b"PK\x03\x04 not whole")
    line = fails(
        capsys,
        *sample("try_on", tmp_path, "--garment", picture, "--face", picture, "--pose", broken),
    )
    assert "body.npz" in line


def test_train_without_data(capsys, tmp_path):
    line = fails(capsys, "train", "--config", "configs/tiny.py", "--workdir", tmp_path / "run")
    assert "--config.data.records" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_train_with_a_config_that_is_not_there(capsys, tmp_path):
    line = fails(capsys, "train", "--config", "configs/absent.py", "--workdir", tmp_path)
    assert "expected a file at configs/absent.py" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; a file in the way, below")
def test_unwritable_workdir(capsys, tmp_path):
    tmp_path.chmod(0o500)
    assert "--workdir" in fails(
        capsys, "train", "--config", "configs/tiny.py", "--workdir", tmp_path / "run"
    )


def test_a_file_where_the_workdir_should_be(capsys, tmp_path):
    (tmp_path / "run").write_text("")
    line = fails(capsys, "train", "--config", "configs/tiny.py", "--workdir", tmp_path / "run")
    assert "cannot write in" in line and "--workdir" in line


def test_build_from_an_empty_folder(capsys, tmp_path):
    (tmp_path / "raw").mkdir()
    line = fails(capsys, "data", "build", "--raw", tmp_path / "raw", "--out", tmp_path / "records")
    assert str(tmp_path / "raw") in line
    assert not (tmp_path / "records").exists()


def test_poses_without_parameters(capsys, tmp_path):
    assert "no smplx/ folder" in fails(capsys, "data", "poses", "--raw", tmp_path)


def test_a_misspelt_flag_is_refused(capsys, tmp_path):
    line = fails(capsys, "data", "poses", "--raw", tmp_path, "--proceses", "2")
    assert "--proceses" in line and "omfa data --help" in line


def test_a_damaged_model_folder(capsys, tmp_path, picture):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    line = fails(
        capsys,
        *sample("try_on", tmp_path, "--garment", picture, "--face", picture, checkpoint=folder),
    )
    assert "diffusion_pytorch_model.safetensors" in line and "not a complete" in line


def test_a_folder_of_somebody_elses_model(capsys, tmp_path, picture):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "omfa.json").unlink()
    line = fails(
        capsys,
        *sample("try_on", tmp_path, "--garment", picture, "--face", picture, checkpoint=folder),
    )
    assert "has no omfa.json" in line and "--config.model.init" in line
