"""Two processes that keep their run on gs://, one of which is killed."""

import time

import numpy as np
import processes
from test_processes import newest, wait_for

from omfa_jax.core import trees
from omfa_jax.core.append_only import read_json_lines
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params


def start(workdir, steps):
    return processes.start(workdir, steps, 2, SAVE="2", PAUSE="0.05")


def test_two_processes_one_killed_end_as_on_a_disk(gs, tmp_path):
    running = start(gs, 500)
    wait_for(lambda: newest(gs) >= 2, running)
    running[1].kill()
    time.sleep(0.3)
    running[0].kill()
    processes.finish(running)
    steps = newest(gs) + 2
    for workdir in (gs, tmp_path):
        for status, out, err in processes.finish(start(workdir, steps)):
            assert status == 0 and f"done {steps}" in out, err[-3000:]
    ours, theirs = (dict(trees.flatten(restore_params(each)[0])) for each in (gs, tmp_path))
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg="/".join(path))
    rows = [row["step"] for _, row in read_json_lines(gs / "metrics.jsonl")]
    assert set(rows) == set(range(1, steps + 1))
