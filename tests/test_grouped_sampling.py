"""Sampling in groups, with a sampler that returns its inputs: order, padding, the bar's start."""

from types import SimpleNamespace

import numpy as np

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.sampling.grouped_sampling import GroupedWork, sample_groups


def test_compilation_is_told_once_and_every_example_is_finished():
    told, sizes = [], []

    def dispatch(task, given, pose, *, seed, has_pose, params, ids):
        told.append("dispatched")
        sizes.append(len(has_pose))
        return {"person": given["person"]}

    def load(place):
        image = np.full((4, 4, 3), place, np.uint8)
        return {**dict.fromkeys((*COMPONENTS, "pose"), image), "has_pose": np.array(True)}

    def finish(place, inputs, images):
        assert (images["person"] == place).all()
        return place

    work = GroupedWork("try_on", [str(n) for n in range(10)], load, finish)
    sampler = SimpleNamespace(devices=1, dispatch=dispatch)
    found = []
    for finished in sample_groups(
        sampler, work, range(10), seed=0, batch_size=1, on_compiled=lambda: told.append("compiled")
    ):
        told.append("finished")
        found += finished
    assert found == list(range(10))
    # the last round is padded, so that one program serves all
    assert sizes == [4, 4, 4]
    assert told[:3] == ["dispatched", "compiled", "finished"] and told.count("compiled") == 1
