"""Batches on real TPU slices: which host feeds which examples, and where they are in the arrays."""

import importlib.util
import math

import jax
import numpy as np
import pytest
from test_positions import Part, looked_up, noise_seen
from tiny_training import BATCH, make_run
from tpu_layouts import described

from omfa_jax.evals.heldout_loss import ROWS_PER_DEVICE, sort_valid_rows
from omfa_jax.parallel.global_arrays import ROW, get_process_shards
from omfa_jax.parallel.mesh import MeshSettings, count_batch_shards, make_batch_sharding, make_mesh
from omfa_jax.parallel.topology import TPU_TYPES, parse_topology
from omfa_jax.studies.study_launchers import format_xpk_flags

PODS = [
    f"{prefix}-{tpu.count(shape)}{slices}"
    for prefix, tpu in TPU_TYPES.items()
    for shape in tpu.slices
    for slices in ("", "x2")
    if math.prod(shape) <= 512
]
MESHES = [{}, {"fsdp": 4}, {"data": 1, "fsdp": -1}, {"tensor": 2}, {"tensor": 4}, {"tensor": 8}]


def make_slice_mesh(name, **axes):
    topology = parse_topology(name)
    return make_mesh(MeshSettings(slice=topology.slices, **axes), described(topology))


def example_order(mesh, rows=1):
    """Return which example of a global batch each row of the global arrays holds.

    JAX deals what a process feeds to its devices in the order of their rows; `rows` are a device's.
    """
    parts = count_batch_shards(mesh)
    mine: dict[int, set[int]] = {}
    for device, (where,) in make_batch_sharding(mesh).devices_indices_map((parts,)).items():
        mine.setdefault(device.process_index, set()).update(range(parts)[where])
    examples = np.full((parts, rows), -1)
    for process, shard in get_process_shards(mesh).items():
        places = sorted(mine[process])
        fed = np.arange(len(places) * rows) + shard * len(places) * rows
        examples[places] = fed.reshape(-1, rows)
    return examples.ravel()


@pytest.mark.parametrize("name", PODS)
def test_the_hosts_of_a_slice_feed_the_global_batch(name):
    for axes in MESHES:
        if axes.get("tensor", axes.get("fsdp", 1)) > parse_topology(name).group:
            continue
        mesh = make_slice_mesh(name, **axes)
        np.testing.assert_array_equal(
            np.sort(example_order(mesh, 2)), np.arange(2 * count_batch_shards(mesh))
        )
        # a part is fed by as many hosts as tensor parallelism spans
        shards = list(get_process_shards(mesh).values())
        assert len({shards.count(shard) for shard in shards}) == 1


@pytest.mark.parametrize(
    ("name", "count", "copies"), [("v5litepod-256", 64, 32), ("v6e-64", 100, 12)]
)
def test_the_heldout_examples_of_a_slice_are_found(name, count, copies):
    held = example_order(make_slice_mesh(name), ROWS_PER_DEVICE)
    valid = held < count
    # what fills up the batch would be taken for examples, were the first rows taken
    assert (~valid[:count]).sum() == copies
    np.testing.assert_array_equal(held[sort_valid_rows(held, valid)], np.arange(count))


def test_a_hosts_rows_are_not_adjacent():
    held = example_order(make_slice_mesh("v5litepod-256"))
    assert held[[0, 1, 16, 17]].tolist() == [0, 1, 2, 3]
    assert (held != np.arange(256)).sum() == 224


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_a_step_on_a_v4_16_equals_one_hosts(tmp_path, grad_accum_steps):
    """Eight devices hold the batch as that slice's two hosts put it on its eight chips."""
    run = make_run(tmp_path, 1, (4, 1, 1), apply=looked_up)
    held = example_order(make_slice_mesh("v4-16", tensor=2), BATCH // 4)
    assert held.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    batch = next(Part(run.mesh))
    placed = {name: value[held] for name, value in batch.items()} | {ROW: held.astype(np.int32)}
    placed = jax.device_put(placed, make_batch_sharding(run.mesh))
    seen = noise_seen(run, grad_accum_steps, placed)
    np.testing.assert_array_equal(seen, noise_seen(run, grad_accum_steps))


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("v4-32x2", "--tpu-type v4-32 --num-slices 2"),
        ("v5e-256", "--tpu-type v5litepod-256 --num-slices 1"),
        ("tpu7x-128", "--tpu-type tpu7x-128 --num-slices 1"),
        ("h100-16", "--device-type h100-80gb-8 --num-nodes 2"),
        ("gb200-72", "--device-type gb200-4 --num-nodes 18"),
        ("h100-4", ""),
        ("rtx4090-8", ""),
    ],
)
def test_xpk_takes_the_same_names(name, flags):
    assert format_xpk_flags(parse_topology(name)) == flags


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_slices_are_as_libtpu_describes_them():
    from omfa_jax.planning.aot import describe_devices

    def facts(devices):
        names = ("id", "process_index", "device_kind", "core_on_chip")
        return {
            (
                *(getattr(device, name) for name in names),
                tuple(device.coords),
                getattr(device, "slice_index", None) or 0,
            )
            for device in devices
        }

    for name in PODS:
        assert facts(describe_devices(parse_topology(name))) == facts(
            described(parse_topology(name))
        ), name
