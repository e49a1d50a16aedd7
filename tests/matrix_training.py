"""The tiny run with a matrix for a network, which compiles in no time."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
from tiny_training import SETTINGS, make_run

from omfa_jax.parallel.fsdp import make_all_gather_params
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.train.loop import TrainRun

WIDTH = 64
RULES = ((r"(kernel|spare)$", ("fsdp", None)), (r"bias$", ()))


def make_apply(mesh):
    """Return the network, which gathers its sharded matrix as a UNet's layers do."""
    gather = make_all_gather_params(RULES, jax.eval_shape(start), mesh)

    def apply(params, inputs, t, rows, prompts):
        kernel = params["kernel"]
        if gather is not None:
            kernel = gather(("kernel",), kernel, jnp.float32)
        mixed = jnp.tanh(inputs @ kernel + params["bias"])
        return mixed * (1 + prompts["pooled"][rows].mean(-1) + t / 1000)[:, None, None, None]

    return apply


def start():
    kernel = jax.random.normal(jax.random.key(0), (SETTINGS.in_channels, SETTINGS.out_channels))
    # large enough for a file of arrays that is mostly arrays
    spare = jax.random.normal(jax.random.key(1), (WIDTH, WIDTH))
    return {"kernel": kernel / 3, "bias": jnp.zeros(kernel.shape[1]), "spare": spare}


def matrix_run(
    workdir: Path, steps: int, mesh: tuple[int, int, int] = (1, 1, 1), **changes
) -> TrainRun:
    apply = make_apply(make_mesh(MeshSettings(*mesh), jax.devices()[: math.prod(mesh)]))
    run = make_run(workdir, steps, mesh, **{"apply": apply, **changes})
    return dataclasses.replace(run, start=start, rules=RULES)
