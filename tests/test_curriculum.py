"""Two processes go on with the tasks that the config says; one of them writes them down."""

import json

import processes
import pytest
import test_task_changes as tests
import tiny_viton as tiny

from omfa_jax.cli import train as command
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.weights.model_folder import load_model_folder

SEVERAL = """
import json, os, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
from omfa_jax.parallel import distributed
workdir = Path(sys.argv[1])
distributed.initialize(workdir)
import test_task_changes as tests
from omfa_jax.cli import train as command
command.train = lambda run: run
config = tests.load(os.environ["RECORDS"], *json.loads(os.environ["FLAGS"]), weights=(0, 1))
run = command.train_diffusion(config, workdir)
print(json.dumps(tests.drawn(run)), float(abs(tests.wording(run, "try_off")).sum()))
"""


def test_every_process_trains_the_configs_tasks(tmp_path, monkeypatch):
    records = tmp_path / "records"
    build_records(tiny.write_raw(tmp_path / "raw", {"train": 9}), records)
    monkeypatch.setattr(command, "train", lambda run: run)
    config = tests.load(records, "--config.log.samples_every_steps=0", weights=(1, 0))
    tests.checkpoint(tmp_path / "run", command.train_diffusion(config, tmp_path / "run"), 3)
    # the wording of the other task, which the model has embedded
    flags = ["--config.log.samples_every_steps=0", f"--config.tasks.try_off.prompt={tests.ON}"]
    running = processes.start(
        tmp_path / "run",
        0,
        2,
        devices=2,
        program=SEVERAL,
        RECORDS=str(records),
        FLAGS=json.dumps(flags),
    )
    ended = processes.finish(running)
    assert [status for status, _, _ in ended] == [0, 0], ended[0][2][-2000:]
    first, second = (out.splitlines()[-1] for _, out, _ in ended)
    assert first == second and json.loads(first.rpartition(" ")[0]) == {"try_off": 80}
    expected = float(abs(tests.embedded(tests.ON)).sum())
    assert float(first.split()[-1]) == pytest.approx(expected)
    tasks = {task.name: task for task in load_model_folder(tmp_path / "run/model").settings.tasks}
    assert tasks["try_off"].prompt == tests.ON and tasks["try_on"].weight == 0
