"""The coordinate check of muP: how far each layer's output moves in a few steps, by width.

Yang et al., arXiv 2203.03466, appendix D.1. Only the width differs: levels, layers, depth and head
size are those of `network`, data and seed are the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from small_settings import make_optimizer_settings

from omfa_jax.core.trees import flatten
from omfa_jax.models import UNETS, UNetConfig, init_unet
from omfa_jax.models.compute import Compute
from omfa_jax.models.unet import UNet
from omfa_jax.train import mup
from omfa_jax.train.optimizer import make_optimizer

BASE_WIDTH = 16
BASE = f"coordinates_{BASE_WIDTH}"
SIZE, BATCH = 8, 4


def network(width: int) -> UNetConfig:
    return UNetConfig(
        block_channels=(width, 2 * width),
        layers_per_block=1,
        transformer_depth=(0, 1),
        heads=(1, width // 8),
        context_dim=4 * width,
        pooled_dim=2 * width,
        time_id_dim=width,
        norm_groups=4,
    )


def add_base(presets: dict = UNETS) -> None:
    """Put the base width among the presets, where `mup_base` looks for it."""
    presets[BASE] = network(BASE_WIDTH)


def inputs(config: UNetConfig, seed: int = 0):
    """Return a batch of noise whose target follows from it: shifted one way, less another."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (BATCH, SIZE, SIZE, config.in_channels))
    target = jnp.roll(x, 1, axis=1) - 0.5 * jnp.roll(x, 1, axis=2)
    rest = (
        jnp.linspace(10.0, 900.0, BATCH),
        jax.random.normal(keys[1], (BATCH, 3, config.context_dim)),
        jax.random.normal(keys[2], (BATCH, config.pooled_dim)),
        jnp.full((BATCH, 6), 64.0),
    )
    return x, rest, target[..., : config.out_channels]


@functools.cache
def observed(width: int):
    """Return a jitted (params, x, rest, target) -> loss, each module's output, gradient."""
    net = UNet(network(width), Compute())

    def loss(params, x, rest, target):
        output, state = net.apply(
            {"params": params}, x, *rest, capture_intermediates=True, mutable=["intermediates"]
        )
        kept = {
            "/".join(path[:-1]): jax.tree.leaves(value)[0]
            for path, value in flatten(state["intermediates"])
        }
        return jnp.mean((output - target) ** 2), kept

    def both(params, *batch):
        (value, kept), gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        return value, kept, gradient

    return jax.jit(both)


@functools.cache
def initial_params(width: int):
    return jax.jit(lambda: init_unet(network(width), jax.random.key(1)))()


@functools.cache
def update(with_mup: bool):
    """Return the rule and a jitted (gradient, state, params, rate) -> params, state.

    Without weight decay an update is proportional to the rate: all share one program of rate 1.
    """
    rule = make_optimizer(
        make_optimizer_settings(
            learning_rate=1.0,
            warmup_steps=0,
            weight_decay=0.0,
            clip_norm=0.0,
            mup_base=BASE if with_mup else "",
        ),
        1000,
    )

    def step(gradient, state, params, rate):
        updates, state = rule.update(gradient, state, params)
        return jax.tree.map(lambda p, u: p + rate * u, params, updates), state

    return rule, jax.jit(step)


def trained(width: int, rate: float, steps: int, *, with_mup: bool):
    """Return the losses of `steps` steps on one batch, and outputs before and after them."""
    config, look = network(width), observed(width)
    batch = inputs(config)
    params = initial_params(width)
    params = mup.rescale_initial_params(params, BASE) if with_mup else params
    rule, step = update(with_mup)
    state, losses = rule.init(params), []
    value, before, gradient = look(params, *batch)
    after = before
    for _ in range(steps):
        losses.append(float(value))
        params, state = step(gradient, state, params, rate)
        value, after, gradient = look(params, *batch)
    return [*losses, float(value)], before, after


def moved(width: int, rate: float, steps: int, *, with_mup: bool) -> dict[str, tuple[float, float]]:
    """Return (mean size after `steps`, mean change since the start) of each module's output."""
    _, before, after = trained(width, rate, steps, with_mup=with_mup)
    return {
        name: (
            float(jnp.abs(after[name]).mean()),
            float(jnp.abs(after[name] - before[name]).mean()),
        )
        for name in after
    }


def slopes(by_width: dict[int, dict[str, tuple[float, float]]], which: int) -> dict[str, float]:
    """Return each module's exponent: its figure `which` grows as width ** slope."""
    widths = sorted(by_width)
    return {
        name: float(
            np.polyfit(
                np.log2(widths), [np.log2(by_width[w][name][which] + 1e-12) for w in widths], 1
            )[0]
        )
        for name in by_width[widths[0]]
    }
