"""Evaluation during training: what it logs, and that it leaves the training as it is."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import processes
import pytest
from matrix_training import matrix_run
from tiny_model import SLOTS, make_tiny_model, write_records
from tiny_training import SETTINGS

from omfa_jax.cli import config_lib
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.core.tasks import Task
from omfa_jax.evals import training_evaluation
from omfa_jax.evals.heldout_run import find_heldout_split
from omfa_jax.evals.training_evaluation import make_training_evaluation
from omfa_jax.parallel.global_arrays import put_global
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.train.loop import train

BASE = Path(__file__).parents[1] / "configs" / "base.py"
NAMES = {
    *("eval/loss", "eval/loss/try_on", "eval/loss/try_off", "eval/psnr/try_on"),
    *("eval/psnr/try_off", "eval/ssim/try_on", "eval/ssim/try_off"),
    *(f"eval/loss/t{low:03d}-{low + 249:03d}" for low in (0, 250, 500, 750)),
}


def make_config(records, *more):
    sizes = [f"--config.canvas.{name}={size}" for name, size in SLOTS.items()]
    return config_lib.load_config(
        BASE,
        [
            *sizes,
            f"--config.data.records={records}",
            "--config.data.threads=0",
            "--config.train.compute_dtype=float32",
            "--config.eval.every_steps=1",
            "--config.eval.examples=5",
            "--config.eval.steps=2",
            "--config.eval.loss_examples=5",
            "--config.eval.loss_timesteps=4",
            *more,
        ],
    )


def evaluation_of(records, mesh, *more):
    config = make_config(records, *more)
    return make_training_evaluation(
        make_tiny_model(),
        config_lib.make_evaluation_settings(config),
        config_lib.make_pipeline_settings(config),
        mesh,
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data"), 6)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_steps_with_it_and_without_it_are_bit_equal(records, tmp_path):
    """On weights that are sharded over two devices, which an evaluation gathers.

    The training is of a matrix, which compiles in no time; the weights that are evaluated follow
    it, so that a figure shows which state it is of.
    """
    mesh = (1, 2, 1)
    without = train(matrix_run(tmp_path / "without", 2, mesh))
    run = matrix_run(tmp_path / "with", 2, mesh, evaluate_every_steps=1)
    evaluation = evaluation_of(records, run.mesh)
    weights = make_tiny_model().unet_params
    weights = put_global(weights, make_param_shardings(UNET_RULES, weights, run.mesh))
    scale = jax.jit(lambda tree, by: jax.tree.map(lambda leaf: leaf * by, tree))

    def evaluate(state, step):
        scaled = scale(weights, 1 + jax.device_get(state.ema["kernel"]).mean())
        return evaluation(SimpleNamespace(params=None, ema=scaled), step)

    state = train(dataclasses.replace(run, evaluate=evaluate))
    for name in ("params", "ema", "opt_state"):
        ours, others = (jax.tree.leaves(getattr(s, name)) for s in (state, without))
        for a, b in zip(ours, others, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    written = [row for row in rows(tmp_path / "with") if "eval/loss" in row]
    assert [row["step"] for row in written] == [1, 2]
    assert set(written[0]) == NAMES | {"step", "time"}
    losses = {row["step"]: row["loss"] for row in rows(tmp_path / "with") if "loss" in row}
    assert losses == {row["step"]: row["loss"] for row in rows(tmp_path / "without")}
    assert all(row["eval/loss"] > 0 and 0 < row["eval/psnr/try_on"] < 40 for row in written)
    assert written[0]["eval/loss"] != written[1]["eval/loss"]
    again = evaluate(state, 2)
    assert {f: written[1][f] for f in NAMES} == {f: again[f] for f in NAMES}


def test_a_device_without_memory_ends_evaluations_and_not_the_run(tmp_path, caplog):
    asked = []

    def too_large(state, step):
        asked.append(step)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    run = matrix_run(tmp_path, 2, evaluate_every_steps=1)
    assert int(train(dataclasses.replace(run, evaluate=too_large)).step) == 2
    assert asked == [1] and "out of memory for the evaluation" in caplog.text


def test_what_cannot_be_evaluated_is_said_before_the_first_step(records, tmp_path):
    mesh = make_mesh(MeshSettings(1, 1, 1), jax.devices()[:1])
    assert find_heldout_split(str(records), "") == "test"
    with pytest.raises(OmfaError, match=r"has no split 'vall' .*config.eval.split"):
        find_heldout_split(str(records), "vall")
    with pytest.raises(OmfaError, match=r"unknown task \(config.eval.tasks\) 'joint'"):
        evaluation_of(records, mesh, "--config.eval.tasks=('joint',)")
    with pytest.raises(OmfaError, match="multiple of 4"):
        evaluation_of(records, mesh, "--config.eval.loss_timesteps=3")


def test_every_row_is_scored_by_component(records, tmp_path, monkeypatch):
    """The names of the figures, and which images are compared; the sampler is tested elsewhere."""
    tasks = (*SETTINGS.tasks, Task("joint", ("garment", "person"), 1.0, "both"))
    model = make_tiny_model()
    prompts = {name: np.concatenate([rows, rows[-1:]]) for name, rows in model.prompts.items()}
    settings = dataclasses.replace(SETTINGS, tasks=tasks)
    model = dataclasses.replace(model, settings=settings, prompts=prompts)

    def write_images(sampler, work, **_):
        for job in (work, *work.other_components):
            job.folder.mkdir(exist_ok=True)
            for place in range(len(job.names)):
                truth = np.asarray(job.get_inputs(place)[job.generated])
                write_image(job.get_path(place), truth if job.generated == "person" else truth // 2)

    monkeypatch.setattr(training_evaluation, "sample_to_folder", write_images)
    config = make_config(records, "--config.eval.tasks=('joint', 'try_on')")
    evaluation = config_lib.make_evaluation_settings(config)
    row = training_evaluation.make_sample_scores(model, evaluation)(model.unet_params)
    labels = ("joint/garment", "joint/person", "try_on")
    assert set(row) == {f"{metric}/{label}" for metric in ("psnr", "ssim") for label in labels}
    assert row["ssim/joint/person"] == row["ssim/try_on"] == 1.0 > row["ssim/joint/garment"]


EVALUATING = """
import json, os, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
jax.config.update("jax_default_matmul_precision", "highest")
from omfa_jax.parallel import distributed
distributed.initialize(Path(sys.argv[1]))
from types import SimpleNamespace
from test_evaluation import evaluation_of, make_tiny_model
from omfa_jax.parallel.global_arrays import put_global
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
mesh = make_mesh(MeshSettings(1, 2, 1), jax.devices())
params = make_tiny_model().unet_params
params = put_global(params, make_param_shardings(UNET_RULES, params, mesh))
evaluate = evaluation_of(Path(os.environ["RECORDS"]), mesh, "--config.eval.tasks=('try_on',)")
print(json.dumps(evaluate(SimpleNamespace(params=params, ema=None), 1)))
"""


def test_two_processes_find_what_one_finds(records, tmp_path):
    found = []
    for count in (1, 2):
        started = processes.start(
            tmp_path, 1, count, devices=2, program=EVALUATING, RECORDS=str(records)
        )
        for status, out, err in processes.finish(started):
            assert status == 0, err[-3000:]
            found.append(json.loads(out.strip().splitlines()[-1]))
    assert set(found[0]) == NAMES - {"eval/psnr/try_off", "eval/ssim/try_off"}
    assert found[0] == found[1] == found[2]
