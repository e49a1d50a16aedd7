"""The canvas: component latents arranged in one array for the UNet, and split again."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.tasks import COMPONENTS

LAYOUTS = ("spatial", "channel")


@dataclass(frozen=True)
class Canvas:
    """The slot of each component (docs/method.md, section 2).

    `slots` are (height, width) in latent pixels, in the order of COMPONENTS. Layout `spatial` puts
    the slots side by side along the width; a slot less tall than the tallest is padded with zeros
    below, and the padding is never noised. `channel` stacks slots of one size on the channel axis
    (an ablation).
    """

    slots: tuple[tuple[int, int], ...]
    latent_channels: int
    layout: str = "spatial"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise make_unknown_name_error("canvas layout", self.layout, LAYOUTS)
        if len(self.slots) != len(COMPONENTS):
            raise OmfaError(
                f"the canvas needs a slot for each of {COMPONENTS}, got {len(self.slots)};"
                " change config.canvas"
            )
        if self.layout == "channel" and len(set(self.slots)) > 1:
            raise OmfaError(
                f"layout 'channel' needs slots of one size, got {self.slots}"
                " latent pixels; change config.canvas"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of the assembled canvas, in latent pixels."""
        # a face slot may be smaller: a third slot of full size costs 62% more FLOPs
        height = max(h for h, _ in self.slots)
        if self.layout == "channel":
            return height, self.slots[0][1], self.latent_channels * len(self.slots)
        return height, sum(w for _, w in self.slots), self.latent_channels

    @property
    def mask_channels(self) -> int:
        """Channels of the mask as a network input: 1 (spatial) or one per component (channel)."""
        return len(self.slots) if self.layout == "channel" else 1

    def assemble(
        self, parts: Mapping[str, Float[Array, "b _ _ c"]]
    ) -> Float[Array, "b h w c_canvas"]:
        """Return the canvas of the component latents; a missing component is zero (null)."""
        batch = next(iter(parts.values())).shape[0]
        height = self.shape[0]
        columns = []
        for name, (h, w) in zip(COMPONENTS, self.slots, strict=True):
            part = parts.get(name)
            if part is None:
                columns.append(jnp.zeros((batch, height, w, self.latent_channels), jnp.float32))
                continue
            expected = (batch, h, w, self.latent_channels)
            if part.shape != expected:
                raise OmfaError(
                    f"latent of {name}: the canvas expects shape {expected}, got {part.shape};"
                    " the slots of the model (omfa.json) and of the data (config.canvas) must agree"
                )
            columns.append(jnp.pad(part, ((0, 0), (0, height - h), (0, 0), (0, 0))))
        return jnp.concatenate(columns, axis=-1 if self.layout == "channel" else 2)

    def split(self, canvas: Shaped[Array, "b h w c"]) -> dict[str, Shaped[Array, "b _ _ _"]]:
        """Return the components of a canvas: the inverse of `assemble`, without the padding."""
        parts, start = {}, 0
        for index, (name, (h, w)) in enumerate(zip(COMPONENTS, self.slots, strict=True)):
            if self.layout == "channel":
                c = self.latent_channels
                parts[name] = canvas[..., index * c : (index + 1) * c]
            else:
                parts[name] = canvas[:, :h, start : start + w]
                start += w
        return parts

    def make_mask(self, noised: Bool[Array, "b 3"]) -> Bool[Array, "b h w c"]:
        """Return M, True where the canvas is noised; one channel (spatial) or all (channel)."""
        batch = noised.shape[0]
        channels = self.latent_channels if self.layout == "channel" else 1
        height = self.shape[0]
        columns = []
        for index, (h, w) in enumerate(self.slots):
            slot = jnp.broadcast_to(noised[:, index, None, None, None], (batch, h, w, channels))
            # the padding below a slot is False: it carries no loss and stays zero when sampling
            columns.append(jnp.pad(slot, ((0, 0), (0, height - h), (0, 0), (0, 0))))
        return jnp.concatenate(columns, axis=-1 if self.layout == "channel" else 2)

    def make_mask_input(self, mask: Bool[Array, "b h w c"]) -> Float[Array, "b h w m"]:
        """Return M as the network sees it: 1.0 where noised, `mask_channels` channels."""
        # the latent channels of a component share one mask value: one channel of each is enough
        stride = self.latent_channels if self.layout == "channel" else 1
        return mask[..., ::stride].astype(jnp.float32)
