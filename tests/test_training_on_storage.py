"""Training with its workdir on gs://: bit-equal to a disk, also after stops and cut saves."""

import json

import jax
import numpy as np
import pytest
from matrix_training import matrix_run
from one_device import use_one_device
from small_settings import make_keep_settings
from test_incomplete import SMALL
from test_incomplete import train as _omfa_train  # noqa: F401

import convert_weights
from omfa_jax.cli import config_lib
from omfa_jax.core.append_only import read_json_lines
from omfa_jax.core.atomic_files import is_locked
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import download_folder
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.model_loading import load_model, read_settings
from omfa_jax.parallel.rendezvous import Rendezvous
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import COMMITTED, FINISHED, list_steps
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring.profiler import Profiler, ProfileSteps
from omfa_jax.train.monitoring.writers import Writers

KEEP = make_keep_settings(last=2)


def train_to(workdir, steps, **changes):
    changes = {"save_every_steps": 2, "keep": KEEP, **changes}
    return jax.device_get(train(matrix_run(workdir, steps, **changes)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The last state of six steps on a disk."""
    return train_to(tmp_path_factory.mktemp("disk"), 6)


def require_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def seen(workdir):
    return [row["step"] for _, row in read_json_lines(workdir / "metrics.jsonl")]


def test_a_run_on_a_bucket_is_that_on_a_disk(gs, straight):
    train_to(gs, 4)
    require_equal(train_to(gs, 6), straight)
    assert list_steps(gs / "checkpoints") == [6, 4]
    assert seen(gs) == [1, 2, 3, 4, 5, 6]
    params, step = restore_params(gs)
    assert step == 6
    require_equal(params, straight.ema)
    assert restore_params(gs / "checkpoints" / "4", ema=False)[1] == 4


def test_a_save_that_was_never_committed_is_not_believed(gs, straight, caplog):
    train_to(gs, 4)
    step = gs / "checkpoints" / "4"
    (step / COMMITTED).unlink()
    # as a kill before the commit leaves it
    found = json.loads((step / FINISHED).read_text())
    (step / FINISHED).write_text(json.dumps({**found, "commit_timestamp_nsecs": None}))
    assert list_steps(gs / "checkpoints") == [2] and restore_params(gs)[1] == 2
    require_equal(train_to(gs, 6), straight)
    assert f"checkpoint {step} was never committed (a save cut short): deleted" in caplog.text
    assert seen(gs) == [1, 2, 3, 4, 3, 4, 5, 6]


def test_a_whole_save_without_its_mark_is_set_aside(gs, straight, caplog):
    train_to(gs, 2)
    (gs / "checkpoints" / "2" / COMMITTED).unlink()
    require_equal(train_to(gs, 6), straight)
    aside = gs / "checkpoints" / "aside-2"
    assert f"was never committed: renamed to {aside}; nothing was deleted" in caplog.text
    assert (aside / FINISHED).is_file() and list_steps(gs / "checkpoints") == [6, 4]


def test_copies_from_a_disk_are_not_trained_over(gs):
    train_to(gs, 4)
    for step in (2, 4):
        (gs / "checkpoints" / str(step) / COMMITTED).unlink()
    before = gs.list_tree()
    with pytest.raises(OmfaError, match=f"checkpoints 4, 2, all without {COMMITTED}"):
        train_to(gs, 6)
    assert gs.list_tree() == before


def test_a_damaged_step_is_set_aside_in_the_store(gs, straight, caplog):
    train_to(gs, 4)
    step = gs / "checkpoints" / "4"
    for name in step.list_tree():
        if name.startswith("ema/d/"):
            (step / name).write_bytes(b"x")
    require_equal(train_to(gs, 6), straight)
    assert f"renamed to {step.with_name('aside-4')}" in caplog.text
    assert (step.with_name("aside-4") / COMMITTED).is_file()


def test_checkpoints_on_s3_are_refused_by_name(s3_server):
    with pytest.raises(OmfaError, match=r"checkpoints cannot be kept on s3://"):
        train_to(RemotePath("s3://bucket/run"), 2)


@pytest.fixture
def omfa_train(_omfa_train, monkeypatch):  # noqa: F811
    """Return the function that runs the command, on one device."""
    use_one_device(monkeypatch)
    return _omfa_train


def test_the_command_trains_stops_and_goes_on(omfa_train, gs, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    assert omfa_train(gs / "run", 2) == 0
    assert omfa_train(gs / "run", 3) == 0
    assert f"resumed from step 2 of {gs / 'run' / 'checkpoints'}" in caplog.text
    assert f"trained to step 3: {gs / 'run'}, last checkpoint" in caplog.text
    assert seen(gs / "run") == [1, 2, 3]
    there = gs.list_tree()
    for name in ("config.json", "model/omfa.json", "model/vae/diffusion_pytorch_model.safetensors"):
        assert there[f"run/{name}"]
    events = [name for name in there if name.startswith("run/tensorboard/events.out")]
    assert len(events) == 2 and all(there[name] for name in events)
    # the locks of both runs are released: the next may start at once
    assert not is_locked(gs / "run")
    start_from = f"--config.checkpoint.start_from={gs / 'run'}"
    config = config_lib.load_config("configs/tiny.py", [*SMALL[1:], start_from])
    model = load_initial_model(config_lib.make_weights_source(config), None)
    assert f"starting from step 3 of {gs / 'run'}" in caplog.text
    require_equal(model.unet_params, restore_params(gs / "run")[0])
    # what samples, scores and exports reads the run, or one of its steps, where it is
    assert read_settings(gs / "run") == load_model(gs / "run" / "checkpoints" / "2").settings
    require_equal(load_model(f"{gs}/run").unet_params, model.unet_params)
    assert convert_weights.main(["export", f"{gs}/run", "--out", f"{gs}/exported"]) == 0
    download_folder(gs / "run", tmp_path / "run")
    assert convert_weights.main(["export", f"{tmp_path}/run", "--out", f"{tmp_path}/exported"]) == 0
    for name in (gs / "exported").list_tree():
        assert (gs / "exported" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes()
    assert omfa_train("gs://no-such-bucket/run", 1) == 2
    assert "there is no bucket no-such-bucket; give another folder" in capsys.readouterr().err
    assert omfa_train("s3://bucket/run", 1) == 2
    assert "checkpoints cannot be kept on s3://" in capsys.readouterr().err


def test_traces_and_pictures_of_a_run_are_objects(gs):
    profiler = Profiler(ProfileSteps(1, 1), gs)
    profiler.before_step(1)
    profiler.after_step(1, jax.numpy.ones(3) + 1)
    assert any(name.endswith(".xplane.pb") for name in (gs / "profile").list_tree())
    writers = Writers(gs, enabled=True)
    writers.write_image(7, "try_on", np.zeros((8, 8, 3), np.uint8))
    writers.close()
    assert (gs / "samples" / "0000007_try_on.png").read_bytes().startswith(b"\x89PNG")


def test_processes_find_each_other_by_objects(gs):
    with Rendezvous(gs, 0, 2, 60.0, print) as waiting:
        assert "process 1 of 2 missing; connected: 0 on" in waiting.format_missing()
        with Rendezvous(gs, 1, 2, 60.0, print):
            assert "none of 2 missing" in waiting.format_missing()
