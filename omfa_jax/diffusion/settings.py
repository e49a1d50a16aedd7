"""The settings that give a model's weights their meaning: tasks, canvas, inputs, schedule."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.tasks import COMPONENTS, Task, make_noised_table
from omfa_jax.core.value_rules import IntRange, check_fields
from omfa_jax.diffusion.canvas import Canvas
from omfa_jax.diffusion.partial import PREDICTION_TYPES, count_input_channels
from omfa_jax.diffusion.schedule import ScheduleSettings

# valid values of the VAE's shape
VAE_RULES = {"stride": IntRange(1, 256), "latent_channels": IntRange(1, 1024)}


@dataclass(frozen=True)
class DiffusionSettings:
    """What a model's weights mean; stored next to them as `omfa.json`.

    `slots_px` are (height, width) of the garment, person and face images in pixels; `stride` is the
    VAE's; `pose_style` is the render style of the pose maps in training, one of the `--style` names
    of `omfa data poses`. With `reference` the clean components go through a second UNet
    (`models.reference_unet`). The fields are keys of omfa.json: renaming one breaks saved models.
    """

    tasks: tuple[Task, ...]
    slots_px: tuple[tuple[int, int], ...]
    stride: int = 8
    latent_channels: int = 4
    layout: str = "spatial"
    unet_inputs: tuple[str, ...] = ("noisy", "mask", "pose")
    prediction: str = "epsilon"
    pose_style: str = "normals"
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    reference: bool = False

    def __post_init__(self) -> None:
        check_fields("omfa.json: ", VAE_RULES, self)
        if self.prediction not in PREDICTION_TYPES:
            raise make_unknown_name_error("prediction type", self.prediction, PREDICTION_TYPES)
        if self.epsilon_zero_snr and self.schedule.spacing != "leading":
            raise OmfaError(
                f"config.diffusion: {self.schedule.spacing!r} timesteps start in pure noise with"
                " zero_terminal_snr=True, where an epsilon prediction carries no information; set"
                " config.diffusion.spacing to 'leading', or config.diffusion.prediction to 'v'"
            )
        for name, size in zip(COMPONENTS, self.slots_px, strict=True):
            whole = len(size) == 2 and all(isinstance(side, int) for side in size)
            if not whole or any(side <= 0 or side % self.stride for side in size):
                raise OmfaError(
                    f"slot of {name}: height and width {tuple(size)} px must be positive multiples"
                    f" of the VAE stride {self.stride}; change config.canvas.{name}"
                )
        if not self.tasks:
            raise OmfaError("the task table is empty; give config.tasks at least one row")
        if self.reference and self.layout != "spatial":
            raise OmfaError(
                f"config.model.reference needs config.canvas.layout 'spatial', got {self.layout!r}:"
                " stacked on channels, the clean components have no tokens of their own"
            )
        if self.reference and make_noised_table(self.tasks).all():
            raise OmfaError(
                "config.model.reference: the tasks noise every component, so a reference UNet has"
                " no input; leave a component clean, or turn the reference UNet off"
            )

    @property
    def epsilon_zero_snr(self) -> bool:
        """True for epsilon prediction on a schedule that ends in pure noise, as in IDM-VTON.

        Training may visit that timestep, where the target is the input; sampling may not, because
        x0_hat divides by alpha = 0.
        """
        return self.schedule.zero_terminal_snr and self.prediction == "epsilon"

    @property
    def canvas(self) -> Canvas:
        """The canvas in latent pixels."""
        slots = tuple((h // self.stride, w // self.stride) for h, w in self.slots_px)
        return Canvas(slots, self.latent_channels, self.layout)

    @property
    def in_channels(self) -> int:
        """Input channels of the UNet's conv_in."""
        return count_input_channels(self.unet_inputs, self.canvas)

    @property
    def out_channels(self) -> int:
        """Output channels of the UNet's conv_out: those of the canvas."""
        return self.canvas.shape[2]

    @property
    def time_ids(self) -> tuple[float, ...]:
        """SDXL's size conditioning in pixels: original size, crop (top, left) and target size."""
        # the person's, not the canvas's: SDXL was trained on sizes of single images
        height, width = self.slots_px[COMPONENTS.index("person")]
        return (height, width, 0, 0, height, width)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON types, for `omfa.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DiffusionSettings":
        """Return the settings that `to_json` wrote; OmfaError for an unknown or missing field."""
        try:
            fields = dict(data)
            # JSON has lists only, and the settings must be hashable (static under jit)
            fields["tasks"] = tuple(
                Task(**{**row, "noised": tuple(row["noised"])}) for row in data["tasks"]
            )
            fields["slots_px"] = tuple(tuple(size) for size in data["slots_px"])
            fields["unet_inputs"] = tuple(data["unet_inputs"])
            fields["schedule"] = ScheduleSettings(**data["schedule"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise OmfaError(
                f"omfa.json does not describe a model that this version can read: {error}"
            ) from None
