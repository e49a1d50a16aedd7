"""The meaning of the channels of a UNet's first convolution, and their mapping to a config's.

One rule holds for all sources. Each channel group of the config takes the weights of the source's
group of the same name, whatever its position. A group that the source lacks starts at zero, so that
the network equals the source's before training. A group that the config lacks is an error, because
its weights would be lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.diffusion.partial import INPUTS
from omfa_jax.diffusion.settings import DiffusionSettings

# (name, number of channels) in channel order
Groups = tuple[tuple[str, int], ...]

KERNEL_PATH = ("conv_in", "kernel")
# Inputs of published UNets, in the channel order of diffusers' pipelines.
PUBLISHED_INPUTS: dict[str, tuple[str, ...]] = {
    "SDXL base": ("noisy",),
    "SDXL-inpainting": ("noisy", "mask", "clean"),
    "IDM-VTON": ("noisy", "mask", "clean", "pose"),
}


def make_input_groups(names: Sequence[str], channels: int, mask_channels: int = 1) -> Groups:
    """Return groups with these names; the mask has `mask_channels`, all others `channels`."""
    for name in names:
        if name not in INPUTS:
            raise make_unknown_name_error("input of a UNet", name, INPUTS)
    return tuple((name, mask_channels if name == "mask" else channels) for name in names)


def get_input_groups(settings: DiffusionSettings) -> Groups:
    """Return the groups that a config's `unet_inputs` and canvas require."""
    canvas = settings.canvas
    # stacked on channels, each component brings its own latent and mask channels
    return make_input_groups(settings.unet_inputs, canvas.shape[2], canvas.mask_channels)


def count_channels(groups: Groups) -> int:
    """Return the width of a conv_in with these groups."""
    return sum(channels for _, channels in groups)


def format_groups(groups: Groups) -> str:
    """Return the groups as text, such as "noisy 4, mask 1"."""
    return ", ".join(f"{name} {channels}" for name, channels in groups)


@dataclass(frozen=True)
class SourceInputs:
    """The channel groups of a source's conv_in; `rule` tells how they are known."""

    groups: Groups
    rule: str


def infer_source_inputs(
    width: int,
    latent_channels: int,
    omfa: Mapping | None = None,
    named: Sequence[str] | None = None,
) -> SourceInputs | None:
    """Return the meaning of a source's `width` input channels; None if it is unknown.

    It comes from the first of: the user's `named`, the source's omfa.json, a published model of the
    same width. Raises OmfaError for names whose channels do not add up to `width`.
    """
    if named is not None:
        groups = make_input_groups(named, latent_channels)
        if count_channels(groups) != width:
            raise OmfaError(
                f"--source-inputs {','.join(named)} is {format_groups(groups)},"
                f" {count_channels(groups)} channels in total; the source's conv_in takes {width}"
            )
        return SourceInputs(groups, "--source-inputs")
    aside = ""
    if omfa is not None:
        groups = get_input_groups(DiffusionSettings.from_json(dict(omfa)))
        if count_channels(groups) == width:
            return SourceInputs(groups, "omfa.json")
        # a base model's folder may have the omfa.json of the model it will be trained into
        aside = f"; omfa.json asks for {count_channels(groups)}"
    for model, names in PUBLISHED_INPUTS.items():
        groups = make_input_groups(names, latent_channels)
        if count_channels(groups) == width:
            return SourceInputs(groups, f"{model}, by its width {width}{aside}")
    return None


def require_known(inputs: SourceInputs | None, width: int, where: str) -> SourceInputs:
    """Return `inputs`; None, an unknown width, is an OmfaError."""
    if inputs is None:
        raise OmfaError(
            f"{where}: conv_in takes {width} channels, which matches no published model; give their"
            " meaning in order when importing, for instance --source-inputs noisy,mask,clean,pose"
        )
    return inputs


@dataclass(frozen=True)
class ChannelMap:
    """Maps a source's conv_in kernel to the groups in `wanted`.

    Raises OmfaError if a group of the source is not wanted, or has another number of channels.
    """

    source: SourceInputs
    wanted: Groups

    def __post_init__(self) -> None:
        wanted, groups = dict(self.wanted), self.source.groups
        for name, channels in groups:
            if name not in wanted:
                raise OmfaError(
                    f"conv_in of the source ({self.source.rule}) takes"
                    f" {format_groups(groups)}, but the"
                    f" config has no {name!r}: add it to config.diffusion.unet_inputs, at any"
                    " position, or give the channels' true meaning with --source-inputs"
                )
            # spatial and stacked canvases differ here, and no mapping of channels would be right
            if wanted[name] != channels:
                raise OmfaError(
                    f"{name!r} has {channels} channels in the source ({self.source.rule}) and"
                    f" {wanted[name]} in the config: change config.canvas.layout, or initialize"
                    " the UNet at random with config.model.init_unet=false"
                )

    @property
    def is_changed(self) -> bool:
        """Whether the mapping changes the kernel."""
        return self.source.groups != self.wanted

    @property
    def note(self) -> str:
        """One line for the user: the channels' meaning and what changes."""
        if not self.is_changed:
            return f"conv_in: {format_groups(self.source.groups)} ({self.source.rule}), unchanged"
        names = dict(self.source.groups)
        new = [name for name, _ in self.wanted if name not in names]
        kept = "same weights" if not new else f"{', '.join(new)} added with zero weights"
        return (
            f"conv_in: {format_groups(self.source.groups)} ({self.source.rule}) -> "
            f"{format_groups(self.wanted)}; {kept}"
        )

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Return the kernel (height, width, in, out) with its input channels mapped."""
        height, width, _, out = kernel.shape
        parts, start = {}, 0
        for name, channels in self.source.groups:
            parts[name] = kernel[:, :, start : start + channels]
            start += channels
        # zero weights: a new input has no effect until it is trained
        zeros = {name: np.zeros((height, width, n, out), kernel.dtype) for name, n in self.wanted}
        return np.concatenate([parts.get(name, zeros[name]) for name, _ in self.wanted], axis=2)
