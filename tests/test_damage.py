"""A damaged checkpoint costs its own interval: the step before is taken, and the damage told."""

import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from matrix_training import matrix_run, start
from small_settings import make_keep_settings, make_optimizer_settings
from tiny_training import CountingBatches

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints import integrity
from omfa_jax.train.checkpoints.checkpoint_weights import read_as_numpy, restore_params
from omfa_jax.train.checkpoints.checkpointer import Checkpointer
from omfa_jax.train.loop import train

NEWEST = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train(matrix_run(workdir, NEWEST, save_every_steps=2))
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def run_to(workdir, steps, **changes):
    run = matrix_run(workdir, steps, save_every_steps=1, **changes)
    return train(run), run


def names(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def largest(item: Path) -> Path:
    """The file of arrays themselves: Orbax keeps no checksum of what it holds."""
    return max((item / "ocdbt.process_0" / "d").iterdir(), key=lambda p: p.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def text(value: str):
    return lambda path: path.write_text(value)


def wider(path: Path) -> None:
    """Write the item anew, one array of it in another shape."""
    tree = read_as_numpy(path.parent, {})
    tree["params"]["spare"] = np.zeros((64, 65), np.float32)
    shutil.rmtree(path.parent)
    with ocp.StandardCheckpointer() as writer:
        writer.save(path.parent, tree)


WAYS = {
    "arrays cut short": ("state", largest, cut),
    "arrays with a flipped bit": ("state", largest, flip),
    "EMA with a flipped bit": ("ema", largest, flip),
    "arrays lost": ("state", largest, Path.unlink),
    "index cut short": ("state", "manifest.ocdbt", cut),
    "index with a flipped bit": ("ema", "manifest.ocdbt", flip),
    "index lost": ("state", "manifest.ocdbt", Path.unlink),
    "names no JSON": ("state", "_METADATA", cut),
    "names lost": ("ema", "_METADATA", Path.unlink),
    "one array in another shape": ("state", "_METADATA", wider),
    "config no JSON": ("config", "metadata", cut),
    "config empty": ("config", "metadata", text("")),
    "config a list": ("config", "metadata", text("[1]")),
    "config lost": ("config", "metadata", Path.unlink),
    "config no text": ("config", "metadata", lambda p: p.write_bytes(b"\xff\xfe{")),
    "position no JSON": ("data", "metadata", text("{")),
    "position of another step": ("data", "metadata", text('{"next_index": 7}')),
    "position below 0": ("data", "metadata", text('{"next_index": -4}')),
    "position no number": ("data", "metadata", text('{"next_index": "x"}')),
    "position a fraction": ("data", "metadata", text('{"next_index": 4.0}')),
    "position null": ("data", "metadata", text('{"next_index": null}')),
    "position of nothing": ("data", "metadata", text("{}")),
    "position too deep": ("data", "metadata", text("[" * 5000)),
    "checksums no JSON": ("checksums", "metadata", cut),
    "end mark no JSON": ("", "_CHECKPOINT_METADATA", cut),
    "end mark empty": ("", "_CHECKPOINT_METADATA", text("")),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_step_before_is_taken_and_the_damaged_one_kept_aside(copy, way, caplog):
    item, which, damage = WAYS[way]
    folder = copy / "checkpoints" / str(NEWEST) / item
    damage(which(folder) if callable(which) else folder / which)
    _, run = run_to(copy, 5)
    assert run.batches.seen == [2, 3, 4]
    assert names(copy) == ["3", "4", "5", f"aside-{NEWEST}"]
    told = [r.getMessage() for r in caplog.records if "renamed to" in r.getMessage()]
    assert len(told) == 1 and f"checkpoints/{NEWEST}" in told[0]
    assert "is damaged: " in told[0] or "is incomplete" in told[0]
    # what was saved in its place is sound
    assert run_to(copy, 6)[1].batches.seen == [5]


def test_of_several_only_the_damaged_go_and_metrics_need_not_be_read(copy):
    run_to(copy, 6, keep=make_keep_settings(last=9))
    flip(largest(copy / "checkpoints/6/state"))
    (copy / "checkpoints/5/data/metadata").write_text("x")
    shutil.rmtree(copy / "checkpoints/2/state")
    cut(copy / "checkpoints/4/row/metadata")
    assert run_to(copy, 6)[1].batches.seen == [4, 5]
    assert {"aside-2", "aside-5", "aside-6", "4", "5", "6"} <= set(names(copy))
    # the same step breaks again: the first one aside stays
    flip(largest(copy / "checkpoints/6/state"))
    run_to(copy, 6)
    assert {"aside-6", "aside-6-2"} <= set(names(copy))


def test_where_all_are_damaged_everything_stays_and_all_is_told(copy):
    flip(largest(copy / "checkpoints/4/state"))
    (copy / "checkpoints/2/data/metadata").write_text('{"next_index": 7}')
    with pytest.raises(OmfaError, match="none is complete; refusing to overwrite them") as raised:
        run_to(copy, 5)
    said = str(raised.value)
    assert "checkpoints/4/state is damaged: " in said and "differs from what was saved" in said
    assert "data position is 7 batches, not 2" in said and "\n" not in said
    assert names(copy) == ["2", "4"]


def test_a_sound_checkpoint_of_another_model_is_refused_and_stays(copy):
    run = matrix_run(copy, 5, optimizer=make_optimizer_settings(name="muon", learning_rate=1e-3))
    with pytest.raises(OmfaError, match="does not fit this config's model or optimizer"):
        train(run)
    object.__setattr__(run, "start", lambda: start() | {"kernel": jnp.zeros((9, 9))})
    with pytest.raises(OmfaError, match=r"params.kernel is .* in the checkpoint"):
        train(run)
    assert names(copy) == ["2", "4"]


def test_moments_in_another_type_are_no_damage(copy):
    optimizer = make_optimizer_settings(learning_rate=1e-3, warmup_steps=2, mu_dtype="bfloat16")
    assert run_to(copy, 5, optimizer=optimizer)[1].batches.seen == [4]


def in_the_first_form(workdir: Path) -> None:
    """Make checkpoints as they were before rows, checksums and lists of items."""
    for step in (2, 4):
        folder = workdir / "checkpoints" / str(step)
        for item in ("checksums", "row"):
            shutil.rmtree(folder / item)
        (folder / "_CHECKPOINT_METADATA").write_text("{}")


def test_checkpoints_of_before_there_were_checksums_and_rows_are_read(copy):
    in_the_first_form(copy)
    assert run_to(copy, 5)[1].batches.seen == [4]
    assert "4" in names(copy)


def test_they_too_must_hold_their_own_step_and_what_their_config_says(copy, caplog):
    in_the_first_form(copy)
    newest = copy / "checkpoints/4"
    shutil.rmtree(newest / "ema")
    (newest / "config/metadata").write_text('{"train": {"ema_decay": 0}}')
    with pytest.raises(OmfaError, match=r"has no EMA .it was trained with train.ema_decay=0"):
        run_to(copy, 5)
    (newest / "config/metadata").write_text('{"train": {"ema_decay": 0.9}}')
    assert run_to(copy, 4)[1].batches.seen == [2, 3]
    assert "it has lost its EMA (train.ema_decay=0.9): renamed" in caplog.text
    shutil.rmtree(newest / "state")
    shutil.copytree(copy / "checkpoints/3/state", newest / "state")
    shutil.rmtree(newest / "checksums")
    (newest / "_CHECKPOINT_METADATA").write_text("{}")
    assert run_to(copy, 4)[1].batches.seen == [3]
    assert "4/state is damaged: it holds step 3: renamed" in caplog.text


@pytest.mark.parametrize("number", [5, 116, 110, 13])
@pytest.mark.parametrize("where", ["json", "arrays"])
def test_a_file_system_that_fails_is_no_damage(copy, number, where, monkeypatch):
    """EIO, ESTALE, ETIMEDOUT, EACCES, as Python and as TensorStore tell them."""

    def fail(*_, **__):
        if where == "json":
            raise OSError(number, "it fails")
        # the form of TensorStore 0.1, in a chain as Orbax makes it
        try:
            raise ValueError(f"UNKNOWN: Error reading x: it fails [os_error_code='{number}']")
        except ValueError as error:
            raise Exception("Encountered error while reading array index: (0,)") from error

    target = (Path, "read_text") if where == "json" else (ocp.StandardCheckpointHandler, "restore")
    with monkeypatch.context() as patch:
        patch.setattr(*target, fail)
        with pytest.raises(OSError) as raised:
            run_to(copy, 5)
    assert raised.value.errno == number
    assert names(copy) == ["2", "4"]
    assert run_to(copy, 5)[1].batches.seen == [4]


def test_a_machine_without_memory_is_no_damage(copy, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
        with pytest.raises(OmfaError, match=r"no memory to read checkpoint .*4/state"):
            run_to(copy, 5)
    assert names(copy) == ["2", "4"]


def test_tensorstore_tells_the_file_systems_errors_in_the_form_we_read(copy):
    """A link to itself fails with ELOOP, which is found in its text."""
    manifest = copy / "checkpoints/4/state/manifest.ocdbt"
    manifest.unlink()
    manifest.symlink_to(manifest.name)
    with pytest.raises(integrity.DamagedCheckpointError) as raised:
        restore_params(copy / "checkpoints/4", ema=False)
    found = integrity.find_os_error(raised.value.__cause__)
    assert found is not None and found.errno == 40


@pytest.mark.parametrize("way", ["arrays with a flipped bit", "names no JSON", "index lost"])
def test_readers_take_the_step_before_say_so_and_change_nothing(copy, way, caplog):
    _, which, damage = WAYS[way]
    for item in ("state", "ema"):
        folder = copy / "checkpoints/4" / item
        damage(which(folder) if callable(which) else folder / which)
    before = names(copy)
    for ema in (True, False):
        params, step = restore_params(copy, ema=ema)
        expected, _ = restore_params(copy / "checkpoints/2", ema=ema)
        assert step == 2
        np.testing.assert_array_equal(params["spare"], expected["spare"])
    assert "checkpoints/4/ema is damaged: " in caplog.text and "using step 2" in caplog.text
    # the one that was asked for by name is not replaced by another
    with pytest.raises(OmfaError, match="checkpoints/4/state is damaged: "):
        restore_params(copy / "checkpoints/4", ema=False)
    assert names(copy) == before


def test_a_position_that_could_not_be_resumed_is_told_before_training(tmp_path):
    class Ahead(CountingBatches):
        def get_state(self):
            return {"next_index": self.position + 1}

    run = matrix_run(tmp_path, 2)
    object.__setattr__(run, "batches", Ahead())
    with pytest.raises(OmfaError, match="at step 0 the data position is"):
        train(run)


def test_a_failed_save_is_told_within_steps_and_not_at_the_next_save(tmp_path, monkeypatch):
    """The disk is full while step 2 is being saved; the next save would be step 50's."""

    class Waiting(CountingBatches):
        def __next__(self):
            if self.position == 3:
                # what a step of a minute gives the background
                saving = checkpoints[0]._manager._finalize_thread.get_not_none()
                threading.Thread.join(saving, 60)
            return super().__next__()

    checkpoints = []
    real = Checkpointer.open

    def open_and_keep(self):
        checkpoints.append(self)
        real(self)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpointer, "open", open_and_keep)
    run = matrix_run(tmp_path, 50, save_every_steps=2)
    object.__setattr__(run, "batches", Waiting())
    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "finalize", full)
        with pytest.raises(
            OmfaError, match=r"could not save checkpoint 2 in .*none is complete"
        ) as e:
            train(run)
    assert run.batches.position <= 4
    assert isinstance(e.value.__cause__, OSError) and e.value.__cause__.errno == 28
