"""What `bench/gpu.py` measures: configs/vitonhd.py on stored latents, without ml_collections.

A machine that is lent for ten minutes has JAX and Flax, and perhaps nothing else that configs need.
`tests/test_bench_gpu.py` compares these values with the config's own.
"""

from dataclasses import dataclass

from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.models.presets import get_vae_config
from omfa_jax.parallel.mesh import MeshSettings
from omfa_jax.planning.flops import count_network_flops
from omfa_jax.planning.job import TrainingJob
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.settings import KeepSettings, LossSettings, OptimizerSettings, TrainSettings

# (height, width) in pixels of garment, person and face
PAPER_PX = ((1024, 768), (1024, 768), (512, 384))
TINY_PX = ((64, 48), (64, 48), (64, 48))


@dataclass(frozen=True)
class Case:
    """One training step: `batch` examples on one device, with a remat policy."""

    batch: int
    remat: str

    @property
    def name(self) -> str:
        """The name in the JSON file and the table."""
        return f"train batch {self.batch} remat {self.remat}"


# by worth: what plans suppose, the fastest, then the rest of the paper's sizes
CASES = (
    Case(4, "none"),
    Case(8, "block"),
    Case(1, "none"),
    Case(16, "block"),
    Case(2, "none"),
    Case(4, "full"),
    Case(8, "attention"),
    Case(1, "block"),
    Case(16, "full"),
    Case(2, "block"),
    Case(8, "none"),
    Case(4, "attention"),
    Case(8, "full"),
    Case(1, "attention"),
    Case(2, "attention"),
    Case(1, "full"),
    Case(2, "full"),
    Case(16, "attention"),
    Case(16, "none"),
)
FIRST = Case(4, "block")
TINY_FIRST, TINY_CASES = Case(2, "block"), (Case(1, "none"),)


def make_diffusion(*, tiny: bool) -> DiffusionSettings:
    """Return the canvas, tasks and network inputs."""
    return DiffusionSettings(
        tasks=(
            Task("try_off", ("garment",), 0.5, "the garment worn by the person"),
            Task("try_on", ("person",), 0.5, "a person wearing the garment"),
        ),
        slots_px=TINY_PX if tiny else PAPER_PX,
    )


def get_unet(diffusion: DiffusionSettings, *, tiny: bool) -> UNetConfig:
    """Return the UNet: SDXL's, or `xs`."""
    return make_unet_config("xs" if tiny else "sdxl", diffusion)


def get_vae(*, tiny: bool) -> VAEConfig:
    """Return the VAE: SDXL's, or `xs`."""
    return get_vae_config("xs" if tiny else "sdxl")


def make_train(case: Case, *, dtype: str = "bfloat16", attention: str = "auto") -> TrainSettings:
    """Return the training settings of a case: AdamW, EMA, clipping, as configs/base.py has them."""
    return TrainSettings(
        steps=65_000,
        batch_size=case.batch,
        seed=0,
        compute_dtype=dtype,
        remat=case.remat,
        attention=attention,
        grad_accum_steps=1,
        ema_decay=0.9999,
        optimizer=OptimizerSettings(
            name="adamw",
            learning_rate=1e-5,
            warmup_steps=500,
            lr_schedule="constant",
            weight_decay=0.01,
            b1=0.9,
            b2=0.999,
            clip_norm=1.0,
            mu_dtype="float32",
            mup_base="",
        ),
        loss=LossSettings(
            min_snr_gamma=0.0, condition_dropout=0.05, timesteps=TimestepDistribution()
        ),
        on_nonfinite="stop",
        save_every_steps=1000,
        keep=KeepSettings(last=3, every_steps=0, best_of=""),
        log_every_steps=20,
        samples_every_steps=1000,
        evaluate_every_steps=0,
        wandb_project="",
    )


def make_job(case: Case, *, tiny: bool) -> TrainingJob:
    """Return the case as `omfa plan` describes it, on one device."""
    diffusion = make_diffusion(tiny=tiny)
    unet = get_unet(diffusion, tiny=tiny)
    return TrainingJob(diffusion, unet, make_train(case), MeshSettings())


def count_step_flops(job: TrainingJob) -> float:
    """Return the FLOPs of a step's forward and backward pass, without what remat repeats."""
    counts = count_network_flops(job.diffusion, job.unet)
    return float(sum(count.total.step for count in counts) * job.train.batch_size)
