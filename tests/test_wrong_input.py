"""Wrong input of every kind ends in one line that says what to change, and costs nothing."""

import ast
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_viton as tiny
from runtime_types import unchecked
from small_settings import make_optimizer_settings
from tiny_training import SETTINGS

from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals.report.svg_curves import read_loss_curve
from omfa_jax.models import get_vae_config
from omfa_jax.sampling.image_inputs import SlotFitter, render_pose
from omfa_jax.sampling.person_inputs import load_person
from omfa_jax.synthetic.world_writer import write_world
from omfa_jax.train.resume import require_same_run
from omfa_jax.train.vae_run import check_crop

LIMITED = """
import resource, sys
from omfa_jax.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, -1))
sys.exit(main(["data", "build", "--raw", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_a_full_disk_while_building_is_one_line(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"train": 4})
    command = [sys.executable, "-c", LIMITED, str(raw), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "records cannot be written" in done.stderr and "MB are free" in done.stderr
    assert not (tmp_path / "out").exists()


def test_overwrite_replaces_records_and_nothing_else(tmp_path):
    raw, out = tiny.write_raw(tmp_path / "raw", {"train": 2}), tmp_path / "out"
    build_records(raw, out)
    build_records(raw, out, overwrite=True)
    (out / "thesis.txt").write_text("x")
    with pytest.raises(OmfaError, match=r"did not write \(thesis.txt\)"):
        build_records(raw, out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "x"


def test_a_body_outside_the_picture_is_no_pose():
    behind = make_look_at_camera((0, 0, 4), (0, 0, 8), focal_px=100.0, width_px=48, height_px=64)
    with pytest.raises(OmfaError, match="outside the image: its camera must look along"):
        render_pose(make_neutral_params(), behind, "normals", None)


def test_a_run_goes_on_with_its_own_seed_and_batch(tmp_path, caplog):
    config = config_lib.load_config("configs/base.py")
    step = tmp_path / "checkpoints" / "5"
    for item in ("state", "data", "config"):
        (step / item).mkdir(parents=True)
    (step / "_CHECKPOINT_METADATA").write_text("{}")
    (step / "config" / "metadata").write_text(json.dumps(config.to_dict()))
    require_same_run(config.to_dict(), tmp_path)
    assert not caplog.records
    config.optimizer.learning_rate = 2e-5
    require_same_run(config.to_dict(), tmp_path)
    assert "changed config.optimizer.learning_rate: 1e-05 -> 2e-05" in caplog.text
    config.seed, config.train.batch_size = 9, 4
    with pytest.raises(OmfaError, match=r"seed: 0 -> 9; train.batch_size: 8 -> 4"):
        require_same_run(config.to_dict(), tmp_path)


def test_a_workdir_has_one_run(tmp_path):
    refused = pytest.raises(OmfaError, match="another run is using")
    with exclusive_lock(tmp_path / LOCK_NAME), refused, exclusive_lock(tmp_path / LOCK_NAME):
        pass
    with exclusive_lock(tmp_path / LOCK_NAME):
        pass


def model_arrays():
    model = load_body_model()
    return {
        "v_template": model.v_template.copy(),
        "f": model.faces.copy(),
        "shapedirs": np.concatenate([model.shapedirs, model.exprdirs], axis=-1),
        "J_regressor": model.joint_regressor.copy(),
        "kintree_table": np.stack([model.parents, np.arange(55)]),
        "weights": model.weights.copy(),
    }


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("shapedirs", lambda a: a[..., :5], r"shapedirs is \(.*5\), expected \(.*10\)"),
        ("shapedirs", lambda a: a[..., 0], "shapedirs is"),
        ("J_regressor", lambda a: a[:, :-1], "J_regressor is"),
        ("kintree_table", lambda a: a[0], "kintree_table is"),
        ("weights", np.zeros_like, "weights do not sum to 1"),
        ("v_template", lambda a: a * np.nan, "v_template have NaN"),
        ("f", lambda a: a + 9, "faces refer to missing vertices"),
    ],
)
def test_odd_body_models_are_refused(tmp_path, name, change, words):
    arrays = model_arrays()
    np.savez(tmp_path / "good.npz", **arrays)
    assert len(load_body_model(tmp_path / "good.npz").v_template) == len(arrays["v_template"])
    arrays[name] = change(arrays[name])
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(OmfaError, match=words):
        load_body_model(tmp_path / "bad.npz")


def test_the_face_is_found_beside_either_generation_and_optional_in_try_off(tmp_path, caplog):
    raw = tiny.write_raw(tmp_path / "raw", {"test": 1})
    photo = str(raw / "test/image/00000_00.jpg")
    slots = SlotFitter(SETTINGS)
    found = load_person(slots, photo).face
    (raw / "test/openpose_json").rename(raw / "test/openpose-json")
    (raw / "test/image-parse-v3").rename(raw / "test/image-parse")
    np.testing.assert_array_equal(load_person(slots, photo).face, found)
    write_image(tmp_path / "me.jpg", np.full((40, 30, 3), 90, np.uint8))
    with pytest.raises(OmfaError, match="no person found"):
        load_person(slots, str(tmp_path / "me.jpg"))
    white = load_person(slots, str(tmp_path / "me.jpg"), face_use="optional").face
    assert (white == 1).all() and "its slot stays white" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("clip_norm", -1.0), ("b1", 1.5), ("warmup_steps", -5), ("weight_decay", -0.1)],
)
def test_optimizers_that_would_climb_are_refused(name, value):
    with pytest.raises(OmfaError, match=f"config.optimizer.{name}: expected a"):
        make_optimizer_settings(**{name: value})


@pytest.mark.parametrize("size", ["(64,)", "(64.0, 48.0)"])
def test_odd_slots_are_refused(size):
    with pytest.raises(OmfaError, match=r"config\.canvas\.person: expected a tuple of 2"):
        config_lib.load_config("configs/base.py", [f"--config.canvas.person={size}"])
    with unchecked(), pytest.raises(OmfaError, match="slot of person"):
        dataclasses.replace(SETTINGS, slots_px=((32, 32), ast.literal_eval(size), (16, 16)))


@pytest.mark.parametrize("crop", [200, 20, 0])
def test_odd_crops_are_refused(crop):
    config = config_lib.load_config("configs/tiny_vae.py").unlock()
    config.autoencoder.crop_px = crop
    settings = config_lib.make_diffusion_settings(config, get_vae_config("tiny"))
    with pytest.raises(OmfaError, match="crop_px must be a multiple of 8 up to 64"):
        check_crop(config.autoencoder.crop_px, settings)


def test_impossible_worlds_do_not_claim_a_folder(tmp_path):
    for fields in ({"height_px": 0}, {"width_px": 15}, {"seed": -1}):
        asked = {"seed": 0, "height_px": 64, "width_px": 48, **fields}
        with pytest.raises(OmfaError, match="--height and --width of at least 16"):
            write_world(tmp_path / "world", counts={"train": 1}, **asked)
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["data", "show", "--records=x", "--out=y.png", "--count=0"],
            "--count: expected an integer",
        ),
        (["demo", "--test=1"], "--test: expected an integer from 2"),
        (
            ["sample", "--checkpoint=x", "--task=try_off", "--person=y", "--out=z", "--seed=-1"],
            "--seed: expected an integer from 0 to",
        ),
    ],
)
def test_odd_flags_are_named(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_guidance_must_be_a_number():
    for guidance in (float("inf"), float("nan"), -1.0):
        with pytest.raises(OmfaError, match="guidance: expected a number from 0"):
            SamplerSettings(guidance=guidance)


def test_a_torn_line_of_the_log_is_left_out(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_loss_curve(log) == {"loss": [(1, 0.5)]}
