"""What the channels of a UNet's first convolution mean, and how they become a config's.

The rule is one for all sources: each group of channels that the config has takes the weights of
the source's group of the same name, wherever it stands there; a group that the source lacks starts
at zero, so the network is the source's until it is trained; a group of the source's that the
config lacks is an error, because its weights would be thrown away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.diffusion.partial import INPUTS
from omfa_jax.diffusion.settings import DiffusionSettings

# (name, channels) in the order of the channels
Groups = tuple[tuple[str, int], ...]

PATH = ("conv_in", "kernel")
# Published UNets and their inputs; their order of channels is that of diffusers' pipelines.
SOURCES: dict[str, tuple[str, ...]] = {
    "SDXL base": ("noisy",),
    "SDXL-inpainting": ("noisy", "mask", "clean"),
    "IDM-VTON": ("noisy", "mask", "clean", "pose"),
}


def input_groups(names: Sequence[str], channels: int, mask_channels: int = 1) -> Groups:
    """Return the groups called `names`: the mask has `mask_channels`, the others `channels`."""
    for name in names:
        if name not in INPUTS:
            raise unknown("input of a UNet", name, INPUTS)
    return tuple((name, mask_channels if name == "mask" else channels) for name in names)


def groups_of(settings: DiffusionSettings) -> Groups:
    """Return the groups that a config's `unet_inputs` and canvas ask for."""
    canvas = settings.canvas
    return input_groups(settings.unet_inputs, canvas.shape[2], canvas.mask_channels)


def total(groups: Groups) -> int:
    """Return the width of a conv_in with these groups."""
    return sum(channels for _, channels in groups)


def listed(groups: Groups) -> str:
    """Return the groups as text: noisy 4, mask 1."""
    return ", ".join(f"{name} {channels}" for name, channels in groups)


@dataclass(frozen=True)
class SourceInputs:
    """What a source's conv_in sees, and how that is known."""

    groups: Groups
    rule: str


def source_inputs(
    width: int,
    latent_channels: int,
    omfa: Mapping | None = None,
    named: Sequence[str] | None = None,
) -> SourceInputs | None:
    """Return what the `width` channels of a source mean; None if nothing says so.

    In this order: the names that the user gave, the source's omfa.json, the width of a published
    model. Names that do not add up to `width` are an OmfaError.
    """
    if named is not None:
        groups = input_groups(named, latent_channels)
        if total(groups) != width:
            raise OmfaError(
                f"--source-inputs {','.join(named)} is {listed(groups)}, together {total(groups)}"
                f" channels; the source's conv_in takes {width}"
            )
        return SourceInputs(groups, "--source-inputs")
    aside = ""
    if omfa is not None:
        groups = groups_of(DiffusionSettings.from_json(dict(omfa)))
        if total(groups) == width:
            return SourceInputs(groups, "omfa.json")
        # a base model's folder may carry the omfa.json of what it will be trained for
        aside = f"; omfa.json asks for {total(groups)}"
    for model, names in SOURCES.items():
        groups = input_groups(names, latent_channels)
        if total(groups) == width:
            return SourceInputs(groups, f"{model}, by its width {width}{aside}")
    return None


def require_known(inputs: SourceInputs | None, width: int, where: str) -> SourceInputs:
    """Return `inputs`, or raise the OmfaError for a width that no published model has."""
    if inputs is None:
        raise OmfaError(
            f"{where}: conv_in takes {width} channels, and no published model says what they mean;"
            " import it with --source-inputs and their names in order, for instance"
            " --source-inputs noisy,mask,clean,pose"
        )
    return inputs


@dataclass(frozen=True)
class ChannelMap:
    """Turns a source's conv_in into the one that `wanted` asks for."""

    source: SourceInputs
    wanted: Groups

    def __post_init__(self) -> None:
        wanted, groups = dict(self.wanted), self.source.groups
        for name, channels in groups:
            if name not in wanted:
                raise OmfaError(
                    f"conv_in of the source ({self.source.rule}) sees {listed(groups)}, the config"
                    f" has no {name!r}: add it to config.diffusion.unet_inputs, in any place, or"
                    " say what the channels mean with --source-inputs if it is something else"
                )
            if wanted[name] != channels:
                raise OmfaError(
                    f"{name!r} is {channels} channels in the source ({self.source.rule}) and"
                    f" {wanted[name]} in the config: change config.canvas.layout, or start the"
                    " UNet at random with config.model.init_unet"
                )

    @property
    def changes(self) -> bool:
        """Whether it changes anything at all."""
        return self.source.groups != self.wanted

    @property
    def note(self) -> str:
        """One line that says what the channels are taken for, and what is done with them."""
        if not self.changes:
            return f"conv_in: {listed(self.source.groups)} ({self.source.rule}), as they are"
        names = dict(self.source.groups)
        new = [name for name, _ in self.wanted if name not in names]
        kept = "same weights" if not new else f"{', '.join(new)} new with zero weights"
        return (
            f"conv_in: {listed(self.source.groups)} ({self.source.rule}) -> "
            f"{listed(self.wanted)}; {kept}"
        )

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Return the kernel (height, width, in, out) with its input channels mapped."""
        height, width, _, out = kernel.shape
        parts, start = {}, 0
        for name, channels in self.source.groups:
            parts[name] = kernel[:, :, start : start + channels]
            start += channels
        zeros = {name: np.zeros((height, width, n, out), kernel.dtype) for name, n in self.wanted}
        return np.concatenate([parts.get(name, zeros[name]) for name, _ in self.wanted], axis=2)
