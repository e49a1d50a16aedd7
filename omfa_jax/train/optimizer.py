"""AdamW with warm-up, decay and clipping."""

import optax

from omfa_jax.train.settings import OptimizerSettings


def learning_rate(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Linear from 0 over the warm-up, then constant, or a cosine that reaches 0 at `steps`."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if settings.decay == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        after = optax.constant_schedule(peak)
    ramp = optax.linear_schedule(0.0, peak, max(warmup, 1))
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """Return clip-by-global-norm followed by AdamW (arXiv 1711.05101)."""
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.adamw(
            learning_rate(settings, steps),
            b1=settings.b1,
            b2=settings.b2,
            weight_decay=settings.weight_decay,
        ),
    )
