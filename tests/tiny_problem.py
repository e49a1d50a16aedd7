"""Small settings that several tests share: canvases, tasks, a linear stand-in for the network."""

import jax
import jax.numpy as jnp

from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.settings import DiffusionSettings

TASKS = (
    Task("try_on", ("person",), 0.5, "on"),
    Task("try_off", ("garment",), 0.3, "off"),
    Task("joint", ("garment", "person"), 0.2, "both"),
)


def settings(**changes) -> DiffusionSettings:
    fields = {
        "tasks": TASKS,
        "slots_px": ((32, 24), (32, 24), (16, 16)),
        "stride": 8,
        "latent_channels": 4,
    }
    return DiffusionSettings(**{**fields, **changes})


def channel_settings(**changes) -> DiffusionSettings:
    return settings(layout="channel", slots_px=((32, 24),) * 3, **changes)


def mixing_network(key, in_channels: int, out_channels: int):
    """A cheap network whose output depends on every input channel, position, time and prompt."""
    weight = jax.random.normal(key, (in_channels, out_channels)) / in_channels**0.5
    rows = jax.random.normal(jax.random.fold_in(key, 1), (8, out_channels))

    def network(x, t, prompt):
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True)
        scale = (1 + t / 1000.0)[:, None, None, None]
        return jnp.tanh((x + pooled) @ weight * scale + 0.3 * rows[prompt][:, None, None, :])

    return network
