"""Scaling studies: which runs there are, what starts them, and the table of those that ended."""

import csv
import dataclasses
import os
import shutil
import subprocess

import numpy as np
import pytest
from scaling_studies import BASE, SMALL, plan
from scaling_tables import read_json

from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.studies.run_results import (
    RunResult,
    collect_rows,
    get_run_state,
    write_failure,
    write_result,
)
from omfa_jax.studies.study_manifest import ModelSize, StudyGrid, expand_grid, read_study

GRID = StudyGrid((), (1e6,), (1e-3,), batch_size=4, dataset_size=100)


def test_samples_of_a_budget_are_its_flops_over_a_samples():
    runs, left_out = expand_grid(
        [ModelSize("a", 10, 1e3), ModelSize("b", 20, 2.5e3)], GRID, chips=1, price=None
    )
    assert [(run.size, run.samples, run.steps) for run in runs] == [
        ("a", 1000, 250),
        ("b", 400, 100),
    ]
    assert [run.flops for run in runs] == [1e6, 1e6] and not left_out
    assert [run.epochs for run in runs] == [10, 4] and runs[0].hours is None


def test_hours_and_cost_count_the_chips():
    size = ModelSize("a", 10, 1e3, seconds_per_flop=3.6e-3)
    (run,), _ = expand_grid([size], GRID, chips=8, price=2.5)
    assert run.hours == pytest.approx(1.0) and run.cost == pytest.approx(20.0)


def test_what_is_no_run_is_said():
    grid = dataclasses.replace(GRID, min_steps=150, max_epochs=9.0)
    sizes = [
        ModelSize("a", 10, 1e3),
        ModelSize("b", 20, 2.5e3),
        ModelSize("c", 30, 1e3, fits=False),
    ]
    runs, left_out = expand_grid(sizes, grid, chips=1, price=None)
    assert not runs
    assert [line.split(": ")[1] for line in left_out] == [
        "10 epochs, more than 9",
        "100 steps, fewer than 150",
        "does not fit in the machine's memory",
    ]


def test_two_budgets_that_round_to_one_run_are_one():
    grid = dataclasses.replace(GRID, budgets=(1e6, 1.0001e6))
    runs, left_out = expand_grid([ModelSize("a", 10, 1e3)], grid, chips=1, price=None)
    assert len(runs) == 1 and "rounds to the same run" in left_out[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "first"
    flags = ("--samples", "640,1280", "--learning-rates", "1e-3,3e-3", "--min-steps", "10")
    return out, plan(out, *flags)


def test_a_run_has_a_config_of_its_own_that_does_not_lean_on_the_base(study):
    out, planned = study
    assert len(planned.runs) == 8
    for run in planned.runs:
        config = config_lib.load_config(out / run.config)
        assert (config.model.unet, config.train.steps) == (run.size, run.steps)
        assert config.optimizer.learning_rate == run.learning_rate
        assert config.optimizer.warmup_steps == run.steps // 10
        assert (
            config.canvas.face == (64, 64) and "import base" not in (out / run.config).read_text()
        )
        config_lib.make_train_settings(config)


def test_figures_are_those_of_the_runs_log(study):
    from omfa_jax.planning.run_cost import compute_unet_cost
    from omfa_jax.train.initial_weights import load_initial_model

    out, planned = study
    run = planned.runs[0]
    config = config_lib.load_config(out / run.config)
    model = load_initial_model(config_lib.make_weights_source(config), None, abstract=True)
    cost = compute_unet_cost(model, run.batch_size, encodes=True)
    row = cost.compute_metrics(run.steps, None)
    assert (row["params"], row["samples"]) == (run.params, run.samples)
    assert row["flops"] == pytest.approx(run.flops, rel=1e-12)
    assert run.hours == pytest.approx(run.flops / 1e12 / 3600)


def test_planning_again_adds_runs_and_moves_none(tmp_path, capsys):
    before = plan(tmp_path / "s", "--samples", "640", "--min-steps", "10")
    after = plan(tmp_path / "s", "--samples", "320,640", "--min-steps", "10", sizes="xs,tiny,s")
    assert after.runs[: len(before.runs)] == before.runs and len(after.runs) == 6
    assert plan(tmp_path / "s", "--samples", "640", "--min-steps", "10").runs == after.runs
    changed = ("--samples", "640", "--config.optimizer.b2=0.9", "--min-steps", "10")
    plan(tmp_path / "s", *changed, status=2)
    assert "the base config has changed" in capsys.readouterr().err
    assert read_study(tmp_path / "s") == after


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--samples", "640", "--budgets", "1e12"), "--samples or --budgets: one of the two"),
        ((), "--samples or --budgets: one of the two"),
        (("--samples", "many"), "--samples: expected numbers"),
        (("--samples", "640,-1"), "--samples: expected positive numbers"),
        (("--samples", "640,nan"), "--samples: expected positive numbers"),
        (("--samples", "inf"), "--samples: expected positive numbers"),
        (("--samples", "640", "--max-epochs", "nan"), "--max-epochs: expected a number above 0"),
        (("--samples", "640", "--price", "inf"), "--price: expected a number from 0"),
        (
            ("--samples", "640", "--flops-per-second", "nan"),
            "--flops-per-second: expected a number",
        ),
        (
            ("--samples", "640", "--flops-per-second", "0", "--price", "3"),
            "--price needs an estimate of the hours: give --topology",
        ),
        (("--samples", "640,640"), "expected distinct values"),
        (("--samples", "64"), "no runs are left: tiny x 64 samples: 8 steps, fewer than 50"),
        (("--samples", "640", "--sizes", "hugo"), "unknown UNet preset (--sizes) 'hugo'"),
        (
            ("--samples", "640", "--config.model.init_unet=true", "--config.model.init=x"),
            "one UNet",
        ),
        (("--samples", "640", "--efficiency", "2"), "--efficiency: expected a number above 0 to 1"),
    ],
)
def test_plans_that_make_no_sense_leave_nothing(tmp_path, capsys, flags, message):
    plan(tmp_path / "s", *flags, status=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_how_many_examples_there_are_must_be_known(tmp_path, capsys):
    command = ["scaling", "plan", "--config", BASE, "--out", str(tmp_path / "s"), "--sizes", "tiny"]
    assert main([*command, "--samples", "640", *SMALL]) == 2
    assert "the number of training examples is unknown" in capsys.readouterr().err


def test_launchers_hand_the_manifests_runs_on(tmp_path, capsys):
    machine = ("--topology", "h100-16", "--price", "2", "--config.train.batch_size=16")
    command = ["scaling", "plan", "--config", BASE, "--out", str(tmp_path / "s")]
    flags = ("--sizes", "tiny,xs", "--dataset-size", "640", "--samples", "1600,3200")
    assert main([*command, *flags, *SMALL, *machine]) == 0
    study, out = read_study(tmp_path / "s"), tmp_path / "s"
    assert "4 runs have steps under 20 ms" in capsys.readouterr().out
    assert all(run.cost == pytest.approx(run.hours * 16 * 2) for run in study.runs)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("xpk", "srun", "scontrol", "omfa"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def asked(*command, **extra):
        (tmp_path / "asked").write_text("")
        subprocess.run(command, env=environment | extra, check=True)
        return (tmp_path / "asked").read_text().splitlines()

    lines = asked(out / "xpk.sh", "pool", "zone", "project", "image")
    assert [line.split()[-1] for line in lines] == [run.name for run in study.runs]
    assert all("--device-type h100-80gb-8 --num-nodes 2" in line for line in lines)
    assert all(len(line.split("--workload ")[1].split()[0]) <= 40 for line in lines)
    # xpk restarts after signals of itself; after 2 it must not
    assert all("--max-restarts 20 --restart-on-exit-codes 1,75 " in line for line in lines)
    array = asked(out / "slurm.sh", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_JOB_ID="7")
    assert array == [f"srun --kill-on-bad-exit=0 --wait=30 omfa scaling run {out} --index 3"]
    assert "#SBATCH --array=0-3" in (out / "slurm.sh").read_text()
    # again: what is finished is passed over, and one that is refused hinders no other
    for run in study.runs[:1]:
        (out / run.workdir).mkdir(parents=True)
        write_result(out, run, {"loss": 0.5})
    (programs / "xpk").write_text(
        f'#!/bin/sh\necho xpk "$@" >> {tmp_path}/asked\ncat\n'
        f'case "$*" in *{study.runs[1].name}) exit 1; esac\n'
    )
    (tmp_path / "asked").write_text("")
    again = subprocess.run(
        [out / "xpk.sh", "pool", "zone", "project", "image"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 1 and again.stderr.count("not started: omfa-1") == 1
    lines = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == [run.name for run in study.runs[1:]]
    # planned again for no machine, no list stays that would not know the new runs
    plan(out, "--samples", "6400")
    assert sorted(path.name for path in out.glob("*.sh")) == ["local.sh"]
    assert asked(out / "local.sh", "--retry-failed") == [f"omfa scaling run {out} --retry-failed"]
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", *out.glob("*.sh")], check=True)


def test_the_table_takes_the_best_rate(study, tmp_path):
    out, planned = study
    folder = shutil.copytree(out, tmp_path / "s")
    for index, run in enumerate(planned.runs[:5]):
        write_result(folder, run, {"loss": float("nan") if index == 0 else 1.0 + index})
    write_failure(folder, planned.runs[5], 2, "diverged")
    assert main(["scaling", "table", str(folder), "--out", str(tmp_path / "t.csv")]) == 0
    table = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in table] == [2.0, 3.0, 5.0]
    assert len(collect_rows(planned, folder, all_rates=True)) == 5
    assert get_run_state(folder, planned.runs[5]) == "failed"


def test_a_result_of_another_run_is_refused(study, tmp_path):
    out, planned = study
    folder = shutil.copytree(out, tmp_path / "s")
    longer = dataclasses.replace(planned.runs[0], steps=999)
    write_result(folder, longer, {"loss": 1.0})
    with pytest.raises(OmfaError, match="after 999 steps, but the manifest has"):
        collect_rows(planned, folder)
    assert RunResult("a", 1, {}) != RunResult("b", 1, {})


def test_a_fit_reads_a_studys_table_as_it_is(tmp_path):
    samples = ",".join(str(640 * 2**k) for k in range(4))
    study = plan(tmp_path / "s", "--samples", samples, "--dataset-size", "10000", sizes="tiny,xs,s")
    for run in study.runs:
        loss = 0.1 + 300 / run.params**0.5 + 5 / run.samples**0.4
        (tmp_path / "s" / run.workdir).mkdir(parents=True)
        write_result(tmp_path / "s", run, {"loss": loss, "loss/try_on": loss})
    table, found = tmp_path / "t.csv", tmp_path / "fit.json"
    assert main(["scaling", "table", str(tmp_path / "s"), "--out", str(table)]) == 0
    assert main(["scaling", "fit", "--table", str(table), "--out", str(found)]) == 0
    law = read_json(found)["law"]["coefficients"]
    assert law["alpha"]["estimate"] == pytest.approx(0.5, rel=0.02)
    assert law["beta"]["estimate"] == pytest.approx(0.4, rel=0.02)
    one = read_json(found)["runs"]
    assert [row["flops"] for row in one] == pytest.approx([run.flops for run in study.runs])
    assert np.all([row["epochs"] == 1 for row in one])
