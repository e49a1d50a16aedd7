"""Training settings for tests: small, in float32, each field open to change."""

from typing import Any

from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.train.settings import KeepSettings, LossSettings, OptimizerSettings, TrainSettings


def make_optimizer_settings(**changes: Any) -> OptimizerSettings:
    """Return AdamW at a rate of 1e-5."""
    fields: dict[str, Any] = {
        "name": "adamw",
        "learning_rate": 1e-5,
        "warmup_steps": 500,
        "lr_schedule": "constant",
        "weight_decay": 0.01,
        "b1": 0.9,
        "b2": 0.999,
        "clip_norm": 1.0,
        "mu_dtype": "float32",
        "mup_base": "",
    }
    return OptimizerSettings(**fields | changes)


def make_loss_settings(**changes: Any) -> LossSettings:
    """Return uniform weights and timesteps, and a dropout of 0.05."""
    fields: dict[str, Any] = {
        "min_snr_gamma": 0.0,
        "condition_dropout": 0.05,
        "timesteps": TimestepDistribution(),
    }
    return LossSettings(**fields | changes)


def make_keep_settings(**changes: Any) -> KeepSettings:
    """Return the settings that keep the last three checkpoints."""
    return KeepSettings(**{"last": 3, "every_steps": 0, "best_of": ""} | changes)


def make_train_settings(steps: int, batch_size: int, **changes: Any) -> TrainSettings:
    """Return a run in float32 without remat, samples or evaluation."""
    fields: dict[str, Any] = {
        "seed": 0,
        "compute_dtype": "float32",
        "remat": "none",
        "attention": "auto",
        "grad_accum_steps": 1,
        "ema_decay": 0.9999,
        "optimizer": make_optimizer_settings(),
        "loss": make_loss_settings(),
        "on_nonfinite": "stop",
        "save_every_steps": 1000,
        "keep": make_keep_settings(),
        "log_every_steps": 20,
        "samples_every_steps": 0,
        "evaluate_every_steps": 0,
        "wandb_project": "",
    }
    return TrainSettings(steps=steps, batch_size=batch_size, **fields | changes)
