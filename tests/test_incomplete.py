"""`omfa train` goes on, and saves, where the newest checkpoint is not whole; nothing is lost."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import matrix_training
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.train import unet_run

SMALL = [
    "--config=configs/tiny.py",
    "--config.canvas.garment=(32,32)",
    "--config.canvas.person=(32,32)",
    "--config.canvas.face=(16,16)",
    "--config.train.batch_size=8",
    "--config.train.ema_decay=0.9",
    "--config.optimizer.warmup_steps=1",
    "--config.log.every_steps=1",
    "--config.checkpoint.every_steps=1",
]
ITEMS = ("state", "data", "config", "ema")


def matrix(unet_config, key, *, has_reference):
    shape = (unet_config.in_channels, unet_config.out_channels)
    return {"kernel": jax.random.normal(key, shape) / 3, "bias": jnp.zeros(shape[1])}


def pooled(vae_config, params, images, *, dtype):
    """Latents without a VAE: means over blocks of pixels, repeated."""
    b, h, w, _ = images.shape
    stride = vae_config.stride
    means = images.reshape(b, h // stride, stride, w // stride, stride, 3).mean((2, 4))
    return jnp.resize(means, (*means.shape[:3], vae_config.latent_channels))


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that runs the command on a workdir, to a step; it returns the status.

    Networks are a matrix and a mean, which compile in no time; all else is the command's.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            unet_run, "make_training_network", lambda *of: matrix_training.make_apply(of[-1])
        )
        patch.setattr(unet_run, "init_network_params", matrix)
        patch.setattr(unet_run, "UNET_RULES", matrix_training.RULES)
        patch.setattr(unet_run, "encode", pooled)
        yield runner(tmp_path_factory)


def runner(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    build_records(tiny.write_raw(root / "raw", {"train": 9}), root / "records")

    def run(workdir, steps, *more):
        flags = [f"--config.data.records={root / 'records'}", f"--config.train.steps={steps}"]
        return main(["train", *SMALL, f"--workdir={workdir}", *flags, *more])

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert train(workdir, 2) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def lose(step: Path, what: str) -> None:
    if what == "everything":
        shutil.rmtree(step)
        step.mkdir()
    elif what == "_CHECKPOINT_METADATA":
        (step / what).unlink()
    else:
        shutil.rmtree(step / what)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def steps(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def seen(workdir: Path) -> list[int]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if "loss" in row]


def test_the_command_goes_on_and_saves_whatever_the_newest_checkpoint_lost(
    train, copy, tmp_path, caplog
):
    caplog.set_level("INFO")
    # "everything" lacks the other items, too
    for number, what in enumerate(("state", "ema", "_CHECKPOINT_METADATA", "everything")):
        newest = 2 + number
        step = copy / "checkpoints" / str(newest)
        lose(step, what)
        left = tree(step)
        caplog.clear()
        # the broken step is trained and saved again, and one more
        assert train(copy, newest + 1) == 0, what
        assert steps(copy)[-2:] == [newest, newest + 1]
        assert all((step / item).is_dir() for item in ITEMS) and tree(step) != left
        aside = copy / "checkpoints" / f"aside-{newest}"
        assert tree(aside) == left
        told = [r.getMessage() for r in caplog.records if "renamed to" in r.getMessage()]
        missing = "state, data, config, _CHECKPOINT_METADATA" if what == "everything" else what
        assert len(told) == 1 and f"{newest} is incomplete (missing: {missing})" in told[0]
        assert f"resumed from step {newest - 1} of" in caplog.text
        assert "was trained with train.ema_decay=0" not in caplog.text
    assert seen(copy)[-4:] == [4, 5, 5, 6]


def test_where_none_is_whole_the_command_refuses_and_renames_nothing(train, copy, capsys):
    for number, what in ((1, "data"), (2, "ema")):
        lose(copy / "checkpoints" / str(number), what)
    before = tree(copy / "checkpoints")
    assert train(copy, 3) == 2
    said = capsys.readouterr().err
    assert "holds checkpoints but none is complete; refusing to overwrite them" in said
    assert "2 is incomplete (missing: ema); " in said and "1 is incomplete (missing: data)" in said
    assert tree(copy / "checkpoints") == before


def test_a_changed_ema_is_told_for_what_it_is(train, copy, tmp_path, capsys, caplog):
    # 0.9 before, none now
    assert train(copy, 3, "--config.train.ema_decay=0") == 0
    assert "the EMA of checkpoint" in caplog.text and "is dropped" in caplog.text
    assert not (copy / "checkpoints/3/ema").exists()
    # none before, 0.9 now: nothing is put aside
    before = steps(copy)
    assert train(copy, 4) == 2
    said = capsys.readouterr().err
    assert (
        "checkpoint 3 in" in said and "has no EMA (it was trained with train.ema_decay=0)" in said
    )
    assert steps(copy) == before
