"""Training with its workdir on gs://: bit-equal to a disk, also after stops and cut saves."""

import jax
import numpy as np
import pytest
from matrix_training import matrix_run

from omfa_jax.core.append_only import read_json_lines
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import COMMITTED, list_steps
from omfa_jax.train.loop import train


def train_to(workdir, steps, **changes):
    return jax.device_get(train(matrix_run(workdir, steps, save_every_steps=2, **changes)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return train_to(tmp_path_factory.mktemp("disk"), 6)


def require_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_on_a_bucket_is_that_on_a_disk(gs, straight):
    train_to(gs, 4)
    train_to(gs, 6)
    assert list_steps(gs / "checkpoints") == [6, 4]
    print(gs.list_tree())
