"""Results of hosts whose devices do not lie together in the mesh, as on TPU slices."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
from small_settings import make_loss_settings
from test_heldout import examples, measured
from tiny_training import BATCH, SETTINGS, CountingBatches, make_run

from omfa_jax.parallel.global_arrays import get_data_shard, make_global_batch, put_global
from omfa_jax.parallel.mesh import make_replicated_sharding
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES, make_param_shardings
from omfa_jax.train.gradient import make_sharded_gradient
from omfa_jax.train.loop import train
from omfa_jax.train.objective import make_diffusion_objective

MESH = (4, 1, 1)
STEPS = 3
CANVAS = SETTINGS.canvas
# of the two processes' four devices, the first process's are 0 and 1
CONTIGUOUS, PERMUTED = (0, 1, 2, 3), (0, 2, 1, 3)

FINDING = """
import json, os, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
jax.config.update("jax_default_matmul_precision", "highest")
from omfa_jax.parallel import distributed
distributed.initialize(Path(sys.argv[1]))
from test_positions import found
orders = json.loads(os.environ["ORDERS"])
print(json.dumps([found(Path(sys.argv[1]) / str(order), tuple(order)) for order in orders]))
"""


class Part(CountingBatches):
    """This process's part of every batch; each example's face says which one of the batch it is."""

    def __init__(self, mesh):
        super().__init__()
        self.shard, self.shards = get_data_shard(mesh)

    def __next__(self):
        whole = super().__next__()
        whole["face_latents"][:] = np.arange(BATCH)[:, None, None, None]
        mine = np.array_split(np.arange(BATCH), self.shards)[self.shard]
        return {name: value[mine] for name, value in whole.items()}


def noise_seen(run, grad_accum_steps=1, batch=None):
    """Return what each example of the first batch is asked to predict, which its noise decides.

    It is the gradient of a table of predictions, one an example, at zero.
    """
    batch = batch or make_global_batch(run.mesh, next(Part(run.mesh)))
    objective = make_diffusion_objective(
        SETTINGS, make_loss_settings(condition_dropout=0.0), looked_up, None
    )
    table = {"kernel": np.zeros((BATCH, *CANVAS.shape), np.float32)}
    shardings = make_param_shardings(REPLICATED_RULES, table, run.mesh)
    gradient = jax.jit(
        make_sharded_gradient(objective, shardings, run.mesh, grad_accum_steps),
        out_shardings=make_replicated_sharding(run.mesh),
    )
    root = jax.jit(lambda: jax.random.key(1), out_shardings=make_replicated_sharding(run.mesh))()
    frozen = put_global(
        run.constants, jax.tree.map(lambda _: make_replicated_sharding(run.mesh), run.constants)
    )
    _, _, grads = gradient(put_global(table, shardings), frozen, batch, root, jnp.int32(0))
    return np.asarray(grads["kernel"])


def looked_up(params, inputs, t, rows, prompts):
    faces = CANVAS.split(inputs[..., : SETTINGS.latent_channels])["face"]
    return params["kernel"][faces[:, 0, 0, 0].astype(jnp.int32)]


def found(workdir, order):
    """Return the held-out loss, the noise of the examples and the losses of a short training."""
    held = measured(workdir, examples(), MESH, order=order)

    def mixing(params, inputs, t, rows, prompts):
        mixed = jnp.tanh(inputs @ params["kernel"])
        return mixed * (1 + prompts["pooled"][rows].mean(-1) + t / 1000)[:, None, None, None]

    def start():
        shape = (SETTINGS.in_channels, SETTINGS.out_channels)
        return {"kernel": jax.random.normal(jax.random.key(0), shape) / 3}

    run = make_run(workdir, STEPS, MESH, order=order, apply=mixing)
    noise = noise_seen(run)
    np.testing.assert_array_equal(noise_seen(run, grad_accum_steps=2), noise)
    state = train(
        dataclasses.replace(
            run,
            start=start,
            rules=REPLICATED_RULES,
            batches=Part(run.mesh),
        )
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {
        "keys": held.keys,
        "values": held.values.tolist(),
        "total": held.total,
        "noise": noise.tolist(),
        "losses": [json.loads(line)["loss"] for line in lines],
        "kernel": np.asarray(state.params["kernel"]).tolist(),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with all four devices finds, in the mesh's order."""
    return run_together(tmp_path_factory.mktemp("alone"), 1, [CONTIGUOUS])[CONTIGUOUS][0]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two processes finds, by the order of the devices in the mesh."""
    return run_together(tmp_path_factory.mktemp("together"), 2, [CONTIGUOUS, PERMUTED])


def run_together(workdir, count, orders):
    # XLA's default emitters: the bits of different programs are compared, and conftest's faster
    # ones round a product differently when it is fused
    flags = os.environ["XLA_FLAGS"].replace("--xla_cpu_use_fusion_emitters=false", "")
    environment = {"ORDERS": json.dumps(orders), "XLA_FLAGS": flags}
    started = processes.start(workdir, STEPS, count, program=FINDING, **environment)
    results = {order: [] for order in orders}
    for status, out, err in processes.finish(started):
        assert status == 0, err[-3000:]
        rows = json.loads(out.strip().splitlines()[-1])
        for order, row in zip(orders, rows, strict=True):
            results[order].append(row)
    return results


@pytest.mark.parametrize("order", [CONTIGUOUS, PERMUTED], ids=str)
def test_two_processes_are_one_whatever_the_meshs_order(together, alone, order):
    for other in together[order]:
        assert other["keys"] == alone["keys"] == list(examples()["key"])
        assert other["values"] == alone["values"] and other["total"] == alone["total"]
        assert other["noise"] == alone["noise"] and np.any(alone["noise"])
        # the same losses, summed in the devices' order
        np.testing.assert_allclose(other["losses"], alone["losses"], rtol=1e-6)
        np.testing.assert_allclose(other["kernel"], alone["kernel"], atol=1e-6)
