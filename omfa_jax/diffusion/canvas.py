"""The canvas: component latents laid out in one array for the UNet, and taken apart again."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.tasks import COMPONENTS

LAYOUTS = ("spatial", "channel")


@dataclass(frozen=True)
class Canvas:
    """Where each component sits. Sizes are (height, width) in latent pixels, in COMPONENTS order.

    `spatial`: slots side by side along the width; a slot lower than the tallest is padded with
    zeros beneath, and the padding is never noised. `channel`: slots of one size stacked on the
    channel axis (the ablation).
    """

    slots: tuple[tuple[int, int], ...]
    latent_channels: int
    layout: str = "spatial"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise unknown("canvas layout", self.layout, LAYOUTS)
        if len(self.slots) != len(COMPONENTS):
            raise OmfaError(f"the canvas needs {len(COMPONENTS)} slots {COMPONENTS}")
        if self.layout == "channel" and len(set(self.slots)) > 1:
            raise OmfaError(
                f"layout 'channel' needs slots of one size, got {self.slots}"
                " latent pixels; change config.canvas"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the assembled canvas."""
        height = max(h for h, _ in self.slots)
        if self.layout == "channel":
            return height, self.slots[0][1], self.latent_channels * len(self.slots)
        return height, sum(w for _, w in self.slots), self.latent_channels

    @property
    def mask_channels(self) -> int:
        """Channels of the mask as a network input: 1 (spatial) or one a component (channel)."""
        return len(self.slots) if self.layout == "channel" else 1

    def assemble(self, parts: Mapping[str, Float[Array, "b _ _ c"]]) -> Float[Array, "b h w c"]:
        """Lay the component latents out; a missing component is zero."""
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
                    f"latent of {name}: the canvas expects {expected}, got {part.shape};"
                    " the model's slots and the data's must agree"
                )
            columns.append(jnp.pad(part, ((0, 0), (0, height - h), (0, 0), (0, 0))))
        return jnp.concatenate(columns, axis=-1 if self.layout == "channel" else 2)

    def split(self, canvas: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b _ _ c"]]:
        """Take the components out again (the inverse of `assemble`, padding dropped)."""
        parts, start = {}, 0
        for index, (name, (h, w)) in enumerate(zip(COMPONENTS, self.slots, strict=True)):
            if self.layout == "channel":
                c = self.latent_channels
                parts[name] = canvas[..., index * c : (index + 1) * c]
            else:
                parts[name] = canvas[:, :h, start : start + w]
                start += w
        return parts

    def mask(self, noised: Bool[Array, "b 3"]) -> Bool[Array, "b h w c"]:
        """M: True where the canvas is noised; the last axis is 1 (spatial) or all channels."""
        batch = noised.shape[0]
        channels = self.latent_channels if self.layout == "channel" else 1
        height = self.shape[0]
        columns = []
        for index, (h, w) in enumerate(self.slots):
            slot = jnp.broadcast_to(noised[:, index, None, None, None], (batch, h, w, channels))
            columns.append(jnp.pad(slot, ((0, 0), (0, height - h), (0, 0), (0, 0))))
        return jnp.concatenate(columns, axis=-1 if self.layout == "channel" else 2)

    def mask_input(self, mask: Bool[Array, "b h w c"]) -> Float[Array, "b h w m"]:
        """M as the network sees it: 1.0 where noised, `mask_channels` channels."""
        stride = self.latent_channels if self.layout == "channel" else 1
        return mask[..., ::stride].astype(jnp.float32)
