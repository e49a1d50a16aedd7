"""What a plan is made for, and the plan itself."""

from dataclasses import dataclass

from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.parallel.mesh import MeshSettings
from omfa_jax.parallel.topology import Topology
from omfa_jax.planning.storage_traffic import StorageTraffic
from omfa_jax.train.settings import TrainSettings


@dataclass(frozen=True)
class TrainingJob:
    """What is planned: a training run's model, canvas, settings and mesh.

    `encodes`: the run reads pictures, which `vae` encodes in the step. `crop_px` above 0: the run
    trains `vae` on crops of that side instead of the UNet, with `decoder_only` its decoder alone.
    `reads_weights`: a model folder or another run initializes it, `reads_unet` its UNet too.
    """

    diffusion: DiffusionSettings
    unet: UNetConfig
    train: TrainSettings
    mesh: MeshSettings
    vae: VAEConfig | None = None
    encodes: bool = False
    crop_px: int = 0
    decoder_only: bool = False
    reads_weights: bool = True
    reads_unet: bool = True


@dataclass(frozen=True)
class Plan:
    """Memory and traffic of one device, FLOPs of all devices, and seconds, for one training step.

    `usable` is the fraction of a device's memory that programs get. `mesh` maps axes to sizes,
    `cut` maps fsdp and tensor to the fraction of the weights' bytes that they shard; `notes` are
    warnings about the mesh. `memory` and `traffic` map a kind to bytes; traffic between nodes or
    slices ends in ", far". `executed_flops` includes what remat computes again and the frozen VAE's
    `frozen_flops`, `model_flops` neither. `storage` is what a run reads and writes. `step_seconds`
    assumes that traffic overlaps with computing, `bare_step_seconds` that none does.
    """

    topology: Topology
    usable: float
    mesh: dict[str, int]
    cut: dict[str, float]
    notes: tuple[str, ...]
    remat: str
    attention: str
    params: int
    memory: dict[str, int]
    model_flops: float
    frozen_flops: float
    executed_flops: float
    traffic: dict[str, int]
    storage: StorageTraffic
    compute_seconds: float
    traffic_seconds: float

    @property
    def peak_bytes(self) -> int:
        """Bytes that a device holds at its peak."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """True if the peak is within the memory that programs get."""
        return self.peak_bytes <= self.usable_bytes

    @property
    def usable_bytes(self) -> float:
        """Bytes of a device's memory that programs get."""
        return self.usable * self.topology.chip.memory_bytes

    @property
    def step_seconds(self) -> float:
        """Seconds of a step with traffic fully overlapped."""
        return max(self.compute_seconds, self.traffic_seconds)

    @property
    def bare_step_seconds(self) -> float:
        """Seconds of a step with no overlap."""
        return self.compute_seconds + self.traffic_seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs of a step over the devices' peak in `step_seconds`."""
        peak = self.topology.devices * self.topology.chip.bf16_flops
        return self.model_flops / (self.step_seconds * peak)
