"""What the training code needs to know, frozen; made from the config at the border."""

from dataclasses import dataclass, field

from omfa_jax.core.bounds import SEED, Choice, Number, Text, Whole, require
from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.models.compute import REMAT
from omfa_jax.models.presets import UNETS

LR_SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "muon")
DTYPES = ("float32", "bfloat16")
NONFINITE = ("stop", "skip")

# what the fields of each of the settings may be; the command line's schema takes its rows from here
OPTIMIZER = {
    "name": Choice(OPTIMIZERS),
    # above 1 nothing is trained; the limits leave room for a rate that muP or a range test asks for
    "learning_rate": Number(0, 10, above=True),
    "warmup_steps": Whole(),
    "lr_schedule": Choice(LR_SCHEDULES),
    "weight_decay": Number(0, 100),
    "b1": Number(0, 1, below=True),
    "b2": Number(0, 1, below=True),
    "clip_norm": Number(0, 1e6),
    "mu_dtype": Choice(DTYPES),
    "mup_base": Choice(UNETS, empty=True),
}
LOSS = {"min_snr_gamma": Number(0, 1000), "condition_dropout": Number(0, 1, below=True)}
KEEP = {"last": Whole(1), "every_steps": Whole(), "best_of": Text()}
# more examples a step than any cluster holds: a slip, and the first allocation would fail
BATCH_MAX = 2**20
TRAIN = {
    "steps": Whole(1),
    "batch_size": Whole(1, BATCH_MAX),
    "seed": SEED,
    "compute_dtype": Choice(DTYPES),
    "remat": Choice(REMAT),
    "grad_accum_steps": Whole(1, BATCH_MAX),
    "ema_decay": Number(0, 1, below=True),
    "on_nonfinite": Choice(NONFINITE),
    "save_every_steps": Whole(1),
    "log_every_steps": Whole(1),
    "samples_every_steps": Whole(),
    "evaluate_every_steps": Whole(),
    "wandb_project": Text(),
}


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
    lr_schedule: str = "constant"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    mu_dtype: str = "float32"
    mup_base: str = ""

    def __post_init__(self) -> None:
        require("config.optimizer.", OPTIMIZER, self)
        if self.mup_base and self.name != "adamw":
            raise OmfaError(
                f"config.optimizer.mup_base scales AdamW's rates, and {self.name}'s updates grow"
                " with the width in another way; set config.optimizer.name=adamw, or leave mup_base"
                " empty and look for the rate at each size"
            )


@dataclass(frozen=True)
class LossSettings:
    """`min_snr_gamma` 0 = uniform weight; `condition_dropout` is a probability per example."""

    min_snr_gamma: float = 0.0
    condition_dropout: float = 0.05
    timesteps: TimestepDistribution = field(default_factory=TimestepDistribution)

    def __post_init__(self) -> None:
        require("config.diffusion.", LOSS, self)


@dataclass(frozen=True)
class KeepSettings:
    """Which checkpoints stay: the `last` few, every `every_steps` (0 = none), and the best.

    The best is the one whose row of the log has the lowest `best_of` ("" = none is kept for that).
    """

    last: int = 3
    every_steps: int = 0
    best_of: str = ""

    def __post_init__(self) -> None:
        require("keep.", KEEP, self)


@dataclass(frozen=True)
class TrainSettings:
    """One run: `steps` updates of a global batch of `batch_size` examples."""

    steps: int
    batch_size: int
    seed: int = 0
    compute_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    grad_accum_steps: int = 1
    ema_decay: float = 0.9999
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    on_nonfinite: str = "stop"
    save_every_steps: int = 1000
    keep: KeepSettings = field(default_factory=KeepSettings)
    log_every_steps: int = 20
    samples_every_steps: int = 0
    evaluate_every_steps: int = 0
    wandb_project: str = ""

    def __post_init__(self) -> None:
        require("", TRAIN, self)
