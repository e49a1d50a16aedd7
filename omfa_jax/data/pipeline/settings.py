"""Settings of the input pipeline."""

from dataclasses import dataclass, field, replace

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.pipeline.augment import AugmentSettings
from omfa_jax.data.pipeline.decode_record import Slots, check_slots
from omfa_jax.data.pipeline.mixture import WeightedFolders, check_mixture


@dataclass(frozen=True)
class PipelineSettings:
    """Which records are read, at which size, and how they are decoded.

    `records`: folder of image records or of latents; its manifest says which.
    `slots`: (height_px, width_px) of garment, person and face; the pose map uses the person's.
    `vae_id`: id of the VAE that must have made the latents; "" for image records.
    `pose_style`: required style of the pose maps, if the records state one; "" accepts any.
    `threads`: batches decoded in parallel by each process (0: in the caller's thread).
    `prefetch_batches`: decoded batches kept in memory by each process.

    Training only, ignored by evaluation:
    `mixture`: (folder, weight) pairs to train on instead of `records`.
    `multi_pose_prob`: probability that garment and face come from another record of the person's
    group. `augment`: for image records only. `sample_latents`: sample the VAE's posterior instead
    of taking its mean. `processes`: worker processes that decode (0: threads of this process).
    """

    records: str
    slots: Slots
    vae_id: str = ""
    pose_style: str = ""
    threads: int = 8
    prefetch_batches: int = 16
    mixture: WeightedFolders = ()
    multi_pose_prob: float = 0.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    sample_latents: bool = False
    processes: int = 0

    def __post_init__(self) -> None:
        check_slots(self.slots)
        check_mixture(self.mixture)
        if self.threads < 0 or self.prefetch_batches < 1:
            raise OmfaError(
                "config.data: threads must be at least 0 and prefetch at least 1, got"
                f" {self.threads} and {self.prefetch_batches}"
            )
        if self.processes < 0:
            raise OmfaError(f"config.data.processes: expected 0 or more, got {self.processes}")
        if not 0 <= self.multi_pose_prob <= 1:
            raise OmfaError(
                f"config.data.multi_pose_prob: expected 0 to 1, got {self.multi_pose_prob}"
            )


def make_eval_settings(settings: PipelineSettings) -> PipelineSettings:
    """Return the settings for evaluation: no mixture, pairing, augmentation or sampling."""
    plain = {"mixture": (), "multi_pose_prob": 0.0, "augment": AugmentSettings(), "processes": 0}
    return replace(settings, sample_latents=False, **plain)
