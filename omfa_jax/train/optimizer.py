"""AdamW or Muon, with warm-up, a learning rate schedule and gradient clipping."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from omfa_jax.train.mup import scale_by_width
from omfa_jax.train.settings import OptimizerSettings

# scales Muon's update to Adam's usual RMS, so that one rate serves both (arXiv 2502.16982, 2.2)
MUON_RMS = 0.2


def make_schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Return a linear warm-up from 0, then a constant rate or a cosine that is 0 at `steps`."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    # optax counts steps after the boundary from 0, so the cosine spans what the warm-up leaves
    if settings.lr_schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        after = optax.constant_schedule(peak)
    ramp = optax.linear_schedule(0.0, peak, max(warmup, 1))
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """Return clip-by-global-norm followed by AdamW (arXiv 1711.05101) or Muon (2502.16982).

    Muon updates kernels, a convolution's as a matrix from its patch to its output. AdamW with
    Nesterov momentum and the same rate updates biases, norms and the first and last convolution.
    Under muP AdamW's updates are scaled per weight, but its decay (rate x weight_decay) is not.
    """
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    rate = make_schedule(settings, steps)
    if settings.name == "muon":
        transform = muon(
            rate,
            weight_decay=settings.weight_decay,
            adam_b1=settings.b1,
            adam_b2=settings.b2,
            mu_dtype=settings.mu_dtype,
            adam_weight_decay=settings.weight_decay,
            muon_weight_dimension_numbers=get_muon_axes,
            consistent_rms=MUON_RMS,
        )
    elif settings.mup_base:
        # optax.adamw taken apart: the width scales Adam's update but not the weight decay
        transform = optax.chain(
            optax.scale_by_adam(settings.b1, settings.b2, mu_dtype=settings.mu_dtype),
            scale_by_width(settings.mup_base),
            optax.add_decayed_weights(settings.weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    else:
        transform = optax.adamw(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            mu_dtype=settings.mu_dtype,
            weight_decay=settings.weight_decay,
        )
    return optax.chain(clip, transform)


def get_muon_axes(params: Any) -> Any:
    """Return each leaf's matrix axes for Muon; None for the leaves that AdamW updates."""

    def matrix(path: tuple[Any, ...], leaf: jax.Array) -> MuonDimensionNumbers | None:
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or {"conv_in", "conv_out"} & set(names):
            return None
        # transformer layers are stacked on the first axis, one matrix per layer
        first = 1 if "transformer_blocks" in names else 0
        return MuonDimensionNumbers(tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map_with_path(matrix, params)
