"""What the pipeline is asked for."""

from dataclasses import dataclass, field, replace

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.augment import AugmentSettings
from omfa_jax.data.decode import Slots, check_slots
from omfa_jax.data.mixture import Weighted, check_mixture


@dataclass(frozen=True)
class PipelineSettings:
    """Where the records are and how big the pictures get.

    `records`: folder of image records or of latents; which of the two is read from its manifest.
    `slots`: (height_px, width_px) of garment, person and face; the pose map has the person's.
    `vae_id`: what the latents must have been made with; "" for image records.
    `pose_style`: what the pose maps must have been drawn in, where the records know; "" for any.
    `threads`: decode this many batches at once (0: in the caller's thread), in each process.
    `prefetch_batches`: finished batches kept ready, in each process; memory is this many batches.

    For training alone, evaluation heeds none of them: `mixture`, (folder, weight) pairs that are
    trained on instead of `records`; `multi_pose_prob`, the probability that garment and face come
    from another record of the person's group; `augment`, for image records; `sample_latents`: draw
    them from the VAE's posterior instead of taking its mean; `processes` that decode (0: threads of
    this process do).
    """

    records: str
    slots: Slots
    vae_id: str = ""
    pose_style: str = ""
    threads: int = 8
    prefetch_batches: int = 16
    mixture: Weighted = ()
    multi_pose_prob: float = 0.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    sample_latents: bool = False
    processes: int = 0

    def __post_init__(self) -> None:
        check_slots(self.slots)
        check_mixture(self.mixture)
        if self.threads < 0 or self.prefetch_batches < 1:
            raise OmfaError("threads must be 0 or more and prefetch_batches 1 or more")
        if self.processes < 0:
            raise OmfaError(f"config.data.processes: expected 0 or more, got {self.processes}")
        if not 0 <= self.multi_pose_prob <= 1:
            raise OmfaError(
                f"config.data.multi_pose_prob: expected 0 to 1, got {self.multi_pose_prob}"
            )


def as_they_are(settings: PipelineSettings) -> PipelineSettings:
    """Return the settings with every picture of one record and unchanged, as evaluation reads."""
    plain = {"mixture": (), "multi_pose_prob": 0.0, "augment": AugmentSettings(), "processes": 0}
    return replace(settings, sample_latents=False, **plain)
