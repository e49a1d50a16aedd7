"""Sampling a split: images do not depend on devices or restarts, and runs are never mixed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import processes
import pytest
from tiny_model import make_tiny_model, pipeline, save_tiny_model, write_records

from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals.influence import sample_derangement
from omfa_jax.evals.prediction_sampling import SamplingJob, claim_folder, sample_to_folder
from omfa_jax.evals.scores_file import read_scores
from omfa_jax.evals.split_evaluation import SplitRequest, compute_metric_values
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import SplitRun
from omfa_jax.sampling.grouped_sampling import get_process_share
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.weights.weights_digest import compute_weights_digest

PEOPLE = 6
STEPS = SamplerSettings(steps=2, guidance=1.5)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data"), PEOPLE)


@pytest.fixture(scope="module")
def model():
    return make_tiny_model()


@pytest.fixture(scope="module")
def one_device(model):
    return Sampler(model, STEPS, devices=jax.devices()[:1])


def work_of(split, folder, **changes):
    work = SamplingJob(
        folder, split.task, split.generated, split.names, split.get_inputs, split.get_size_px
    )
    return dataclasses.replace(work, **changes)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="module")
def alone(records, one_device, tmp_path_factory):
    """The images of one device, which samples two groups in sequence."""
    folder = tmp_path_factory.mktemp("alone")
    split = EvalSplit(pipeline(records), "test", "paired")
    assert sample_to_folder(one_device, work_of(split, folder), seed=3) == PEOPLE
    return files(folder)


def test_pictures_are_of_the_photos_size_and_of_each_example(alone, records):
    assert list(alone) == [f"{number:05d}_00.png" for number in range(PEOPLE)]
    assert len(set(alone.values())) == PEOPLE
    assert read_rgb(alone["00000_00.png"]).shape == (64, 48, 3)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 64), (8, 0)])
def test_neither_devices_nor_the_batch_size_change_a_byte(
    alone, records, model, one_device, tmp_path, devices, batch_size
):
    sampler = one_device
    if devices > 1:
        sampler = Sampler(model, STEPS, devices=jax.devices()[:devices])
    split = EvalSplit(pipeline(records), "test", "paired")
    sample_to_folder(sampler, work_of(split, tmp_path), seed=3, batch_size=batch_size)
    assert files(tmp_path) == alone


def test_shares_of_processes_make_up_the_whole(alone, records, one_device, tmp_path):
    split = EvalSplit(pipeline(records), "test", "paired")
    assert get_process_share(PEOPLE, 0, 2) == [0, 1, 2, 3] and get_process_share(PEOPLE, 1, 2) == [
        4,
        5,
    ]
    for process in (1, 0):
        work = work_of(split, tmp_path)
        wrote = sample_to_folder(one_device, work, seed=3, process=process, processes=2)
        assert wrote == len(get_process_share(PEOPLE, process, 2))
    assert files(tmp_path) == alone


def test_what_is_missing_is_made_again_and_nothing_else(alone, records, one_device, tmp_path):
    split = EvalSplit(pipeline(records), "test", "paired")
    for name, content in alone.items():
        (tmp_path / name).write_bytes(content)
    for name in ("00001_00.png", "00002_00.png"):
        (tmp_path / name).unlink()
    marked = tmp_path / "00000_00.png"
    marked.write_bytes(b"not touched")
    asked = []

    def given(place):
        asked.append(place)
        return split.get_inputs(place)

    work = work_of(split, tmp_path, get_inputs=given)
    assert sample_to_folder(one_device, work, seed=3) == 2
    assert sorted(asked) == [1, 2]
    assert files(tmp_path) == alone | {"00000_00.png": b"not touched"}
    assert sample_to_folder(one_device, work, seed=3) == 0 and len(asked) == 2


def test_noise_follows_the_name_and_the_seed_and_not_the_place(
    alone, records, one_device, tmp_path
):
    split = EvalSplit(pipeline(records), "test", "paired")

    def sampled(folder, names, order, seed):
        work = work_of(
            split,
            tmp_path / folder,
            names=names,
            get_inputs=lambda place: split.get_inputs(order[place]),
            get_size_px=None,
        )
        sample_to_folder(one_device, work, seed=seed)
        return [read_rgb(tmp_path / folder / f"{name}.png").astype(int) for name in names]

    straight = list(range(PEOPLE))
    first = sampled("first", split.names, straight, 3)
    turned = sampled("turned", split.names[::-1], straight[::-1], 3)
    for one, other in zip(first, turned[::-1], strict=True):
        assert np.abs(one - other).max() <= 1
    renamed = sampled("renamed", [f"x{name}" for name in split.names], straight, 3)
    reseeded = sampled("reseeded", split.names, straight, 4)
    for others in (renamed, reseeded):
        assert all(np.abs(a - b).max() > 2 for a, b in zip(first, others, strict=True))


def test_a_folder_is_one_runs(tmp_path):
    folder = tmp_path / "run"
    facts = {"checkpoint": "a", "seed": 0, "sampler": {"steps": 2}}
    claim_folder(folder, facts, overwrite=False)
    picture = folder / "pred" / "x.png"
    picture.parent.mkdir()
    picture.write_bytes(b"x")
    (folder / "pairs.txt").write_text("x.png y.png\n")
    claim_folder(folder, facts, overwrite=False)
    changed = facts | {"seed": 1, "sampler": {"steps": 3}}
    with pytest.raises(OmfaError, match=r"sampler: was {'steps': 2}, now .*seed: was 0, now 1"):
        claim_folder(folder, changed, overwrite=False)
    assert picture.exists()
    # what is not in its pairs.txt is somebody's, and so is what lies behind a link
    mine, album = folder / "pred" / "mine.png", tmp_path / "album"
    album.mkdir()
    (album / "x.png").write_bytes(b"mine")
    for foreign in (mine, folder / "gt"):
        foreign.write_bytes(b"mine") if foreign is mine else foreign.symlink_to(album)
        with pytest.raises(OmfaError, match=f"did not write.*{foreign.name}"):
            claim_folder(folder, changed, overwrite=True)
        assert foreign.exists() and picture.exists()
        foreign.unlink()
    notes = folder / "notes.txt"
    notes.write_text("mine")
    claim_folder(folder, changed, overwrite=True)
    assert not picture.exists() and notes.exists() and (album / "x.png").exists()
    claim_folder(folder, changed, overwrite=False)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"x")
    for restart in (False, True):
        with pytest.raises(OmfaError, match="no evaluation wrote it"):
            claim_folder(foreign, facts, overwrite=restart)
    assert (foreign / "holiday.jpg").exists()


def test_the_digest_is_of_the_weights(model):
    same, other = make_tiny_model(), make_tiny_model(seed=1)
    assert (
        compute_weights_digest(same)
        == compute_weights_digest(model)
        != compute_weights_digest(other)
    )
    unet = dict(model.unet_params or {})
    unet["conv_in"] = {**unet["conv_in"], "bias": unet["conv_in"]["bias"] + 1}
    assert compute_weights_digest(model.with_unet(unet)) != compute_weights_digest(model)


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model", model)


def flags(model_folder, records, out, *more):
    return [
        *("eval", f"--checkpoint={model_folder}", f"--data={records}", f"--out={out}"),
        *("--task=try_on", "--steps=2", "--guidance=1.5", "--seed=3", *more),
    ]


def test_the_command_samples_scores_and_measures(model_folder, records, alone, tmp_path, capsys):
    out = tmp_path / "out"
    raw = records.parent / "raw"
    more = ("--influence=garment,pose", f"--regions={raw}", "--loss", "--loss-timesteps=4")
    assert main(flags(model_folder, records, out, *more)) == 0
    assert files(out / "pred") == alone
    scores = read_scores(out / "scores.json")
    assert scores.counts.scored == PEOPLE and scores.protocol.setting == "paired"
    assert set(scores.influence or {}) == {"garment", "pose"}
    row = (scores.influence or {})["garment"]
    assert row["count"] == PEOPLE and row["region"] == "garment region"
    assert row["gain"] == pytest.approx(row["right"] - row["wrong"])
    swap = sample_derangement(PEOPLE, 3)
    assert not (swap == np.arange(PEOPLE)).any()
    assert files(out / "other_garment") != alone
    loss = json.loads((out / "loss.json").read_text())
    assert loss["examples"] == PEOPLE and loss["loss"] > 0 and len(loss["timesteps"]) == 4
    shown = capsys.readouterr().out
    assert "PSNR" in shown and "garment: psnr" in shown and "loss/try_off" in shown

    # any metric per image comes from the protocol's own scores; SSIM is computed both ways
    how = SplitRequest(
        split="test", setting="paired", sampler=SamplerSettings(), seed=3, dtype="float32",
        method="m", protocol="omfa", workers=1,
    )  # fmt: skip
    split = EvalSplit(pipeline(records), "test", "paired")
    run = SplitRun(split, out, 3, lambda work: 0)
    for folder in ("pred", "other_garment"):
        found, better = compute_metric_values(how, out, split.names, "ssim", out / folder)
        assert better == "higher"
        assert found == pytest.approx(
            run.compute_values(out / folder, "ssim", run.read_ground_truth)
        )
    with pytest.raises(OmfaError, match="did you mean 'ssim'"):
        compute_metric_values(how, out, split.names, "sim", out / "pred")

    before = {path: path.stat().st_mtime_ns for path in (out / "pred").iterdir()}
    assert main(flags(model_folder, records, out, *more)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "pred").iterdir()}
    capsys.readouterr()
    assert main([*flags(model_folder, records, out), "--guidance=2"]) == 2
    assert "holds images of another run (sampler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--task=try_onn"], "did you mean 'try_on'"),
        (["--setting=try_off"], "has the settings paired, unpaired, multi_pose"),
        (["--setting=unpaired", "--influence"], "needs a ground truth"),
        (["--influence=garmet"], "did you mean 'garment'"),
        (["--limit=0"], "--limit: expected an integer from 1"),
        (["--task=try_off", "--truth=raw"], "for --task try_on only"),
    ],
)
def test_flags_that_make_no_sense(model_folder, records, tmp_path, capsys, more, said):
    assert main(flags(model_folder, records, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "pred").exists()


COMMAND = """
import os, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
jax.config.update("jax_default_matmul_precision", "highest")
from omfa_jax.evals.split_evaluation import SplitRequest, compute_metric_values
from omfa_jax.cli.main import main
sys.exit(main(os.environ["FLAGS"].split()))
"""


def test_two_processes_write_what_one_writes(model_folder, records, tmp_path):
    made = []
    for count in (1, 2):
        out = tmp_path / str(count)
        words = " ".join(flags(model_folder, records, out))
        started = processes.start(tmp_path, 1, count, devices=2, program=COMMAND, FLAGS=words)
        ended = processes.finish(started)
        for status, _, err in ended:
            assert status == 0, err[-3000:]
        # one process scores
        assert sum("PSNR" in shown for _, shown, _ in ended) == 1
        made.append(files(out / "pred"))
        assert read_scores(out / "scores.json").counts.scored == PEOPLE
    assert made[0] == made[1] and len(made[0]) == PEOPLE
    shutil.rmtree(tmp_path)
