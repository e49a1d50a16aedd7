"""A run that goes on, or starts from another, trains the tasks that its config says."""

import dataclasses
import logging
import shutil
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny_viton as tiny
from small_settings import make_keep_settings

from omfa_jax.cli import config_lib
from omfa_jax.cli import train as command
from omfa_jax.cli.config_lib import make_weights_source
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.train.checkpoints.checkpoint_weights import (
    load_checkpoint_model,
    load_export_arguments,
)
from omfa_jax.train.checkpoints.checkpointer import Checkpointer
from omfa_jax.train.initial_weights import check_same_meaning
from omfa_jax.train.resume import require_same_run
from omfa_jax.train.state import TrainState
from omfa_jax.train.task_changes import update_tasks
from omfa_jax.weights.model_folder import load_model_folder, save_model_folder, write_tasks
from omfa_jax.weights.prompt_table import (
    PromptTable,
    load_prompts,
    make_seeded_prompts,
    save_prompts,
)

ROOT = Path(__file__).parents[1]
TINY = ROOT / "omfa_jax/assets/tiny"
ON, OFF = "a person wearing the garment", "the garment worn by the person"
NEW = "a model in the garment"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    build_records(tiny.write_raw(root / "raw", {"train": 9}), root / "records")
    return root / "records"


@pytest.fixture
def started(records, monkeypatch):
    """Return the function that does all of `omfa train` but training: it returns the run."""
    seen = {}
    monkeypatch.setattr(command, "train", lambda run: run)
    monkeypatch.setattr(command, "make_evaluation", lambda c, model, *_: seen.update(eval=model))
    monkeypatch.setattr(command, "make_sample_images", lambda c, model: seen.update(shown=model))

    def start(workdir, *flags, weights=(0.5, 0.5)):
        config = load(records, *flags, weights=weights)
        require_same_run(config.to_dict(), workdir)
        run = command.train_diffusion(config, workdir)
        # what pictures and the held-out loss are made of, and what is on the disk for afterwards
        tasks = seen["eval"].settings.tasks
        stored = load_model_folder(workdir / "model")
        assert seen["shown"].settings.tasks == tasks == stored.settings.tasks
        for name, rows in run.constants["prompts"].items():
            np.testing.assert_array_equal(rows, stored.prompts[name])
        return run

    return start


def load(records, *flags, weights=(0.5, 0.5)):
    small = ("garment=(64,48)", "person=(64,48)", "face=(16,16)")
    return config_lib.load_config(
        ROOT / "configs/tiny.py",
        [
            *(f"--config.canvas.{size}" for size in small),
            f"--config.data.records={records}",
            f"--config.model.init={TINY}",
            f"--config.tasks.try_on.weight={weights[0]}",
            f"--config.tasks.try_off.weight={weights[1]}",
            *flags,
        ],
    )


def checkpoint(workdir, run, step):
    """Save a checkpoint of next to nothing, as a run that stopped there leaves."""
    params = {"conv_in": {"bias": np.zeros(3, np.float32)}}
    state = TrainState(np.int32(step), params, None, {"mu": params})
    checkpoints = Checkpointer(workdir, make_keep_settings(last=2))
    checkpoints.save(step, state, run.batches.get_state(), run.config)
    checkpoints.close()


def drawn(run, batches=20):
    """Return how many examples of each task the run draws; tasks are in the config's order."""
    counts = Counter()
    names = sorted(run.config["tasks"])
    for _ in range(batches):
        counts.update(names[task] for task in next(run.batches)["task"])
    return counts


def wording(run, task):
    return run.constants["prompts"]["context"][sorted(run.config["tasks"]).index(task)]


def embedded(prompt, folder=TINY):
    table = load_prompts(folder / "prompts.safetensors")
    return table.context[table.prompts.index(prompt)]


@pytest.fixture
def wider(tmp_path):
    """A converted model whose prompt table has more wording."""
    folder = shutil.copytree(TINY, tmp_path / "wider")
    table = load_prompts(folder / "prompts.safetensors")
    _, tokens, dim = table.context.shape
    more = make_seeded_prompts([NEW], tokens, dim, table.pooled.shape[1], seed=5)
    save_prompts(
        folder / "prompts.safetensors",
        PromptTable(
            (NEW, *table.prompts),
            np.concatenate([more.context[:1], table.context]),
            np.concatenate([more.pooled[:1], table.pooled]),
        ),
    )
    return folder


def from_text_encoders(folder):
    """Make the prompt table of a model one that no seed gives."""
    path = folder / "prompts.safetensors"
    table = load_prompts(path)
    save_prompts(path, dataclasses.replace(table, context=table.context * 2))


def test_a_staged_curriculum_draws_what_the_config_says(started, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = started(tmp_path, weights=(1, 0))
    assert drawn(first) == {"try_on": 160}
    checkpoint(tmp_path, first, 20)
    assert f"by task: 0.0% try_off ('{OFF}'), 100.0% try_on ('{ON}')" in caplog.text
    second = started(tmp_path, weights=(0, 1))
    assert "resuming with a changed config.tasks.try_on.weight: 1.0 -> 0.0" in caplog.text
    counts = drawn(second)
    assert counts == {"try_off": 160}
    assert f"by task: 100.0% try_off ('{OFF}'), 0.0% try_on" in caplog.text
    model, _ = load_checkpoint_model(tmp_path)
    assert {t.name: t.weight for t in model.settings.tasks} == {"try_on": 0, "try_off": 1}
    third = started(tmp_path, weights=(0.25, 0.75))
    counts = drawn(third, 100)
    assert abs(counts["try_off"] - 600) < 60


def test_another_workdirs_weights_are_not_its_task_weights(started, tmp_path):
    first = started(tmp_path / "a", weights=(1, 0))
    checkpoint(tmp_path / "a", first, 1)
    start = f"--config.checkpoint.start_from={tmp_path / 'a'}"
    second = started(tmp_path / "b", start, weights=(0, 1))
    assert drawn(second) == {"try_off": 160}
    assert load_model_folder(tmp_path / "a/model").settings.tasks[1].weight == 1


def test_new_wording_is_looked_up_and_stays_with_the_model(started, wider, tmp_path):
    run = started(tmp_path / "run")
    checkpoint(tmp_path / "run", run, 1)
    new = f"--config.tasks.try_on.prompt={NEW}"
    for workdir, flags in (
        ("run", ()),
        ("other", (f"--config.checkpoint.start_from={tmp_path / 'run'}",)),
    ):
        changed = started(tmp_path / workdir, new, f"--config.model.init={wider}", *flags)
        np.testing.assert_array_equal(wording(changed, "try_on"), embedded(NEW, wider))
        np.testing.assert_array_equal(wording(changed, "try_off"), embedded(OFF))
        checkpoint(tmp_path / workdir, changed, 2)
        # an export carries it
        table = load_export_arguments(tmp_path / workdir)["prompts"]
        assert table.prompts == (OFF, NEW, "")
        np.testing.assert_array_equal(table.context[1], embedded(NEW, wider))
        # what the model has embedded needs no other place, neither the new nor the old wording
        again = started(tmp_path / workdir, new, f"--config.model.init={tmp_path / 'gone'}")
        np.testing.assert_array_equal(wording(again, "try_on"), embedded(NEW, wider))
    back = started(tmp_path / "run", f"--config.model.init={tmp_path / 'gone'}")
    np.testing.assert_array_equal(wording(back, "try_on"), embedded(ON))


def test_wordings_that_change_places_do_so(started, tmp_path):
    checkpoint(tmp_path, started(tmp_path), 1)
    swapped = started(
        tmp_path, f"--config.tasks.try_on.prompt={OFF}", f"--config.tasks.try_off.prompt={ON}"
    )
    np.testing.assert_array_equal(wording(swapped, "try_on"), embedded(OFF))
    np.testing.assert_array_equal(wording(swapped, "try_off"), embedded(ON))


def test_wording_that_nothing_embeds_is_refused_by_name(started, tmp_path):
    checkpoint(tmp_path, started(tmp_path), 1)
    from_text_encoders(tmp_path / "model")
    before = {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    for start in ((), (f"--config.checkpoint.start_from={tmp_path}",)):
        workdir = tmp_path / "new" if start else tmp_path
        with pytest.raises(OmfaError) as refused:
            started(workdir, f"--config.tasks.try_on.prompt={NEW}", *start)
        line = str(refused.value)
        assert f"no embedding of config.tasks.try_on.prompt='{NEW}'" in line and "\n" not in line
        assert "`convert_weights.py import SRC --out DIR --config CONFIG`" in line
        assert repr(ON) in line and "--config.model.init=DIR" in line
    assert before == {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}


def test_a_model_of_seeded_prompts_seeds_new_ones(records, started, tmp_path):
    run = started(tmp_path)
    _, tokens, dim = run.constants["prompts"]["context"].shape
    model = load_model_folder(tmp_path / "model")
    seeded = make_seeded_prompts([OFF, ON], tokens, dim, model.prompts["pooled"].shape[1])
    folder = tmp_path / "seeded"
    save_model_folder(folder, dataclasses.replace(model, prompts=seeded.select_rows([OFF, ON])))
    config = load(records, f"--config.tasks.try_on.prompt={NEW}", "--config.model.init=")
    changed = update_tasks(make_weights_source(config), load_model_folder(folder), folder)
    expected = make_seeded_prompts([NEW], tokens, dim, 8).context[0]
    np.testing.assert_array_equal(changed.prompts["context"][1], expected)
    # a real table is never mixed with random rows
    from_text_encoders(tmp_path / "model")
    with pytest.raises(OmfaError, match="no embedding of"):
        update_tasks(make_weights_source(config), model, tmp_path / "model")


def test_other_text_encoders_are_said_and_other_lengths_refused(
    records, started, wider, tmp_path, caplog
):
    started(tmp_path / "run")
    folder = tmp_path / "run/model"
    config = load(records, f"--config.tasks.try_on.prompt={NEW}", f"--config.model.init={wider}")
    update_tasks(make_weights_source(config), load_model_folder(folder), folder)
    assert "differently" not in caplog.text
    from_text_encoders(wider)
    update_tasks(make_weights_source(config), load_model_folder(folder), folder)
    assert "differently: the text encoders of their prompt tables differ" in caplog.text
    path = wider / "prompts.safetensors"
    table = load_prompts(path)
    save_prompts(path, dataclasses.replace(table, context=table.context[:, :2]))
    with pytest.raises(OmfaError, match="cannot be merged"):
        update_tasks(make_weights_source(config), load_model_folder(folder), folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tasks: tasks[:1], "the config lacks its try_on"),
        (lambda tasks: (*tasks, dataclasses.replace(tasks[0], name="joint")), "it has no joint"),
        (
            lambda tasks: (tasks[0], dataclasses.replace(tasks[1], noised=("face", "person"))),
            "try_on noises face+person in the config, person in the checkpoint",
        ),
    ],
)
def test_other_tasks_are_refused_clearly(change, words):
    trained = load_model_folder(TINY).settings
    wanted = dataclasses.replace(trained, tasks=change(trained.tasks))
    with pytest.raises(OmfaError) as refused:
        check_same_meaning(wanted, trained, Path("run"))
    assert f"run was trained with other tasks: {words}; set" in str(refused.value)
    assert "weight=0" in str(refused.value) and "start_from=run" in str(refused.value)
    check_same_meaning(trained, dataclasses.replace(trained, tasks=trained.tasks[::-1]), "run")


def test_a_refusal_names_what_differs_and_no_tasks_that_may():
    trained = load_model_folder(TINY).settings
    schedule = dataclasses.replace(trained.schedule, spacing="trailing")
    wanted = dataclasses.replace(trained, tasks=trained.tasks[::-1], schedule=schedule)
    with pytest.raises(OmfaError, match=r"schedule: .* in the checkpoint; use") as refused:
        check_same_meaning(wanted, trained, Path("run"))
    assert "tasks" not in str(refused.value)


def test_tasks_written_half_still_make_a_model(started, wider, tmp_path, monkeypatch):
    """A kill between the two files leaves the old tasks beside a table that has them too."""
    checkpoint(tmp_path, started(tmp_path), 1)
    model = load_model_folder(tmp_path / "model")
    tasks = [dataclasses.replace(task, prompt=NEW) for task in model.settings.tasks]
    settings = dataclasses.replace(model.settings, tasks=tuple(tasks))
    changed = dataclasses.replace(model, settings=settings)
    killed = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("omfa_jax.weights.model_folder.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tasks(tmp_path / "model", changed)
    after = load_model_folder(tmp_path / "model")
    assert after.settings == model.settings
    np.testing.assert_array_equal(after.prompts["context"], model.prompts["context"])
    assert NEW in load_prompts(tmp_path / "model/prompts.safetensors").prompts


def test_settings_without_effect_are_not_said_to_go_on(records, started, wider, tmp_path, caplog):
    checkpoint(tmp_path, started(tmp_path), 1)
    require_same_run(load(records, f"--config.model.init={wider}").to_dict(), tmp_path)
    assert f"{wider}: no effect, the checkpoint's weights are used" in caplog.text
    assert "resuming with a changed config.model.init" not in caplog.text
