"""Settings of a training run, which cli makes from the config.

The classes of this file have no defaults: those are in `configs/base.py`. Other settings classes,
such as `SamplerSettings`, repeat theirs for the library, and a test compares them with the config.
"""

from collections.abc import Callable
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import SEED_RULE, Choice, FloatRange, IntRange, Text, check_fields
from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig
from omfa_jax.models.compute import REMAT_POLICIES
from omfa_jax.models.presets import UNETS

LR_SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "muon")
DTYPES = ("float32", "bfloat16")
NONFINITE = ("stop", "skip")

# the values that each field may take; cli/config_table.py takes its rows from here
OPTIMIZER = {
    "name": Choice(OPTIMIZERS),
    # no rate above 1 trains; the limit leaves room for what muP or a range test may ask for
    "learning_rate": FloatRange(0, 10, exclusive_minimum=True),
    "warmup_steps": IntRange(),
    "lr_schedule": Choice(LR_SCHEDULES),
    "weight_decay": FloatRange(0, 100),
    "b1": FloatRange(0, 1, exclusive_maximum=True),
    "b2": FloatRange(0, 1, exclusive_maximum=True),
    "clip_norm": FloatRange(0, 1e6),
    "mu_dtype": Choice(DTYPES),
    "mup_base": Choice(UNETS, allow_empty=True),
}
LOSS = {
    "min_snr_gamma": FloatRange(0, 1000),
    "condition_dropout": FloatRange(0, 1, exclusive_maximum=True),
}
KEEP = {"last": IntRange(1), "every_steps": IntRange(), "best_of": Text()}
# more examples per step than any cluster holds: a typo, which would fail at the first allocation
BATCH_MAX = 2**20
TRAIN = {
    "steps": IntRange(1),
    "batch_size": IntRange(1, BATCH_MAX),
    "seed": SEED_RULE,
    "compute_dtype": Choice(DTYPES),
    "remat": Choice(REMAT_POLICIES),
    "grad_accum_steps": IntRange(1, BATCH_MAX),
    "ema_decay": FloatRange(0, 1, exclusive_maximum=True),
    "on_nonfinite": Choice(NONFINITE),
    "save_every_steps": IntRange(1),
    "log_every_steps": IntRange(1),
    "samples_every_steps": IntRange(),
    "evaluate_every_steps": IntRange(),
    "wandb_project": Text(),
}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW or Muon with linear warm-up; `clip_norm` bounds the global gradient norm (0 = off).

    `mu_dtype` is the dtype of the first moment. The second stays float32: with b2 = 0.999 its
    updates are smaller than bfloat16's resolution, and it would never change. `mup_base` names the
    UNet preset that the learning rate was tuned on; muP transfers it to this width ("" = off; see
    `train.mup`).
    """

    name: str
    learning_rate: float
    warmup_steps: int
    lr_schedule: str
    weight_decay: float
    b1: float
    b2: float
    clip_norm: float
    mu_dtype: str
    mup_base: str

    def __post_init__(self) -> None:
        check_fields("config.optimizer.", OPTIMIZER, self)
        if self.mup_base and self.name != "adamw":
            raise OmfaError(
                f"config.optimizer.mup_base scales AdamW's rates, and {self.name}'s updates scale"
                " differently with width; set config.optimizer.name=adamw, or leave mup_base"
                " empty and look for the rate at each size"
            )


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """`min_snr_gamma` 0 = uniform weight; `condition_dropout` is a probability per example."""

    min_snr_gamma: float
    condition_dropout: float
    timesteps: TimestepDistribution

    def __post_init__(self) -> None:
        check_fields("config.diffusion.", LOSS, self)


@dataclass(frozen=True, kw_only=True)
class KeepSettings:
    """Which checkpoints are kept: the `last` few, every `every_steps` (0 = none), and the best.

    The best is the one with the lowest value of the metric `best_of` in the log ("" = none).
    """

    last: int
    every_steps: int
    best_of: str

    def __post_init__(self) -> None:
        check_fields("keep.", KEEP, self)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One run: `steps` updates of a global batch of `batch_size` examples."""

    steps: int
    batch_size: int
    seed: int
    compute_dtype: str
    remat: str
    attention: str
    grad_accum_steps: int
    ema_decay: float
    optimizer: OptimizerSettings
    loss: LossSettings
    on_nonfinite: str
    save_every_steps: int
    keep: KeepSettings
    log_every_steps: int
    samples_every_steps: int
    evaluate_every_steps: int
    wandb_project: str

    def __post_init__(self) -> None:
        check_fields("", TRAIN, self)


@dataclass(frozen=True, kw_only=True)
class InitialWeightsSource:
    """Where a run's initial weights come from (see `train.initial_weights`).

    `unet` and `vae` are presets. `init` is a converted model's folder, of which `init_unet` takes
    the UNet too, and `ignore_scheduler` trains it even if its scheduler contradicts the config.
    `start_from` is another run's workdir. `seed` draws what is random. `diffusion_for(vae)` gives
    the settings of a model with that VAE, which fixes stride and latent channels.
    """

    unet: str
    vae: str
    init: str
    init_unet: bool
    ignore_scheduler: bool
    start_from: str
    seed: int
    diffusion_for: Callable[[VAEConfig], DiffusionSettings]
