"""The tiny run with a matrix for a network, which compiles in no time."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from tiny_training import SETTINGS, make_run

from omfa_jax.train.loop import TrainRun

WIDTH = 64
RULES = ((r"(kernel|spare)$", ("fsdp", None)), (r"bias$", ()))


def apply(params, inputs, t, rows, prompts):
    mixed = jnp.tanh(inputs @ params["kernel"] + params["bias"])
    return mixed * (1 + prompts["pooled"][rows].mean(-1) + t / 1000)[:, None, None, None]


def start():
    kernel = jax.random.normal(jax.random.key(0), (SETTINGS.in_channels, SETTINGS.out_channels))
    # large enough for a file of arrays that is mostly arrays
    spare = jax.random.normal(jax.random.key(1), (WIDTH, WIDTH))
    return {"kernel": kernel / 3, "bias": jnp.zeros(kernel.shape[1]), "spare": spare}


def matrix_run(workdir: Path, steps: int, **changes) -> TrainRun:
    run = make_run(workdir, steps, **{"apply": apply, **changes})
    return dataclasses.replace(run, start=start, rules=RULES)
