"""What the training code needs to know, frozen; made from the config at the border."""

from dataclasses import dataclass, field

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.models.presets import UNETS

DECAYS = ("constant", "cosine")
OPTIMIZERS = ("adamw", "muon")
DTYPES = ("float32", "bfloat16")
NONFINITE = ("stop", "skip")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW or Muon with linear warm-up; `clip_norm` bounds the global gradient norm (0 = off).

    `mu_dtype` is how the first moment is kept. The second stays float32: with b2 = 0.999 its steps
    are smaller than bfloat16's, and it would stand still. `mup_base` names the UNet preset that the
    rate was found with, of which muP carries it to the width at hand ("" = off; see `train.mup`).
    """

    name: str = "adamw"
    learning_rate: float = 1e-5
    warmup_steps: int = 500
    decay: str = "constant"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    mu_dtype: str = "float32"
    mup_base: str = ""

    def __post_init__(self) -> None:
        if self.mu_dtype not in DTYPES:
            raise unknown("config.optimizer.mu_dtype", self.mu_dtype, DTYPES)
        if self.name not in OPTIMIZERS:
            raise unknown("config.optimizer.name", self.name, OPTIMIZERS)
        if self.mup_base and self.mup_base not in UNETS:
            raise unknown("config.optimizer.mup_base", self.mup_base, UNETS)
        if self.mup_base and self.name != "adamw":
            raise OmfaError(
                f"config.optimizer.mup_base scales AdamW's rates, and {self.name}'s updates grow"
                " with the width in another way; set config.optimizer.name=adamw, or leave mup_base"
                " empty and look for the rate at each size"
            )
        if self.decay not in DECAYS:
            raise unknown("config.optimizer.decay", self.decay, DECAYS)
        if not self.learning_rate > 0:
            raise OmfaError(f"config.optimizer.learning_rate must be > 0, got {self.learning_rate}")
        for name, holds in {
            "warmup_steps": self.warmup_steps >= 0,
            "weight_decay": self.weight_decay >= 0,
            "clip_norm": self.clip_norm >= 0,
            "b1": 0 <= self.b1 < 1,
            "b2": 0 <= self.b2 < 1,
        }.items():
            if not holds:
                bound = "in [0, 1)" if name in ("b1", "b2") else "0 or more"
                raise OmfaError(
                    f"config.optimizer.{name} must be {bound}, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class LossSettings:
    """`min_snr_gamma` 0 = uniform weight; `condition_dropout` is a probability per example."""

    min_snr_gamma: float = 0.0
    condition_dropout: float = 0.05
    timesteps: TimestepDistribution = field(default_factory=TimestepDistribution)

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise OmfaError(
                "config.diffusion.condition_dropout must lie in [0, 1),"
                f" got {self.condition_dropout}"
            )


@dataclass(frozen=True)
class KeepSettings:
    """Which checkpoints stay: the `last` few, every `every_steps` (0 = none), and the best.

    The best is the one whose row of the log has the lowest `best_of` ("" = none is kept for that).
    """

    last: int = 3
    every_steps: int = 0
    best_of: str = ""

    def __post_init__(self) -> None:
        if self.last < 1 or self.every_steps < 0:
            raise OmfaError(
                "config.checkpoint.keep must be at least 1 and keep_every_steps at least 0, got"
                f" {self.last} and {self.every_steps}"
            )


@dataclass(frozen=True)
class TrainSettings:
    """One run: `steps` updates of a global batch of `batch_size` examples."""

    steps: int
    batch_size: int
    seed: int = 0
    compute_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    accumulate: int = 1
    ema_decay: float = 0.9999
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    nonfinite: str = "stop"
    save_every_steps: int = 1000
    keep: KeepSettings = field(default_factory=KeepSettings)
    log_every_steps: int = 20
    samples_every_steps: int = 0
    evaluate_every_steps: int = 0
    wandb_project: str = ""

    def __post_init__(self) -> None:
        if self.compute_dtype not in DTYPES:
            raise unknown("config.train.compute_dtype", self.compute_dtype, DTYPES)
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise OmfaError(f"config.train.{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise OmfaError(f"config.train.ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.nonfinite not in NONFINITE:
            raise unknown("config.train.nonfinite", self.nonfinite, NONFINITE)
        for name in ("save_every_steps", "log_every_steps"):
            if getattr(self, name) < 1:
                raise OmfaError(f"{name} must be at least 1, got {getattr(self, name)}")
