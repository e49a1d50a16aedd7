"""The two canvases of a reference UNet model: noised components on one, clean ones on the other.

A task selects some components. The first selected one, in the order of COMPONENTS, goes to the
first slot, the second to the second slot. A batch of several tasks therefore has one static shape,
and no task computes slots that it does not use: try-on's person and try-off's garment share one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from omfa_jax.core.tasks import COMPONENTS, make_noised_table
from omfa_jax.diffusion.canvas import Canvas
from omfa_jax.diffusion.settings import DiffusionSettings


@dataclass(frozen=True)
class PackedCanvas:
    """A canvas for the components that each task selects.

    `selected` has a row per task and a column per component. A slot is as large as the largest
    component that any task puts there; a smaller component is placed in the upper left corner and
    padded with zeros.
    """

    canvas: Canvas
    selected: tuple[tuple[bool, ...], ...]

    @property
    def assignments(self) -> tuple[tuple[int, int], ...]:
        """Every (component, slot) pair that some task of the table needs, sorted."""
        # only these pairs get code in `pack`: the table is static, the tasks of a batch are not
        found = set()
        for row in self.selected:
            components = [index for index, wanted in enumerate(row) if wanted]
            found |= {(component, slot) for slot, component in enumerate(components)}
        return tuple(sorted(found))

    @property
    def slots(self) -> tuple[tuple[int, int], ...]:
        """Size (height, width) of each slot in latent pixels."""
        held: dict[int, list[tuple[int, int]]] = {}
        for component, slot in self.assignments:
            held.setdefault(slot, []).append(self.canvas.slots[component])
        return tuple(
            (max(h for h, _ in held[slot]), max(w for _, w in held[slot])) for slot in sorted(held)
        )

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width) of the packed canvas: its slots side by side."""
        return max(h for h, _ in self.slots), sum(w for _, w in self.slots)

    def pack(
        self, joint: Shaped[Array, "b h w c"], chosen: Bool[Array, "b 3"]
    ) -> Shaped[Array, "b h2 w2 c"]:
        """Return the packed canvas of the chosen components of a joint canvas or network input."""
        parts, here = self._split_parts(joint), self._find_assigned(chosen)
        height = self.size[0]
        columns = []
        for slot, (_, width) in enumerate(self.slots):
            column = jnp.zeros((joint.shape[0], height, width, joint.shape[-1]), joint.dtype)
            for component, place in self.assignments:
                if place == slot:
                    # `where` and not indexing: examples of different tasks share one program
                    part = _pad(parts[component], height, width)
                    column = jnp.where(here[component, slot], part, column)
            columns.append(column)
        return jnp.concatenate(columns, axis=2)

    def unpack(
        self, packed: Float[Array, "b h2 w2 c"], chosen: Bool[Array, "b 3"]
    ) -> Float[Array, "b h w c"]:
        """Return the joint canvas with the chosen components in their slots, zero elsewhere."""
        here, parts = self._find_assigned(chosen), {}
        starts = [sum(w for _, w in self.slots[:slot]) for slot in range(len(self.slots))]
        for component, slot in self.assignments:
            height, width = self.canvas.slots[component]
            part = packed[:, :height, starts[slot] : starts[slot] + width]
            other = parts.get(COMPONENTS[component])
            kept = jnp.zeros_like(part) if other is None else other
            parts[COMPONENTS[component]] = jnp.where(here[component, slot], part, kept)
        return self.canvas.assemble(parts)

    def _split_parts(self, joint: Shaped[Array, "b h w c"]) -> list[Shaped[Array, "b _ _ c"]]:
        parts: Mapping[str, Array] = self.canvas.split(joint)
        return [parts[name] for name in COMPONENTS]

    def _find_assigned(
        self, chosen: Bool[Array, "b 3"]
    ) -> dict[tuple[int, int], Bool[Array, "b 1 1 1"]]:
        """Return, for every (component, slot), which examples put the component there."""
        # the k-th chosen component of an example goes to slot k
        rank = jnp.cumsum(chosen, axis=1) - 1
        return {
            (component, slot): (chosen & (rank == slot))[:, component, None, None, None]
            for component, slot in self.assignments
        }


def make_packed_canvases(settings: DiffusionSettings) -> tuple[PackedCanvas, PackedCanvas]:
    """Return the packings for the noised and for the clean components of the task table."""
    noised = make_noised_table(settings.tasks)
    return tuple(  # pyright: ignore[reportReturnType]
        PackedCanvas(settings.canvas, tuple(tuple(bool(flag) for flag in row) for row in table))
        for table in (noised, ~noised)
    )


def read_noised(
    settings: DiffusionSettings, inputs: Float[Array, "b h w cin"]
) -> Bool[Array, "b 3"]:
    """Return which components are noised according to the mask channel of a network input."""
    # a pixel in a slot's corner represents the slot: the mask is constant over a component
    before = settings.unet_inputs[: settings.unet_inputs.index("mask")]
    parts = settings.canvas.split(inputs[..., len(before) * settings.latent_channels, None])
    return jnp.stack([parts[name][:, 0, 0, 0] > 0.5 for name in COMPONENTS], axis=1)


def _pad(part: Shaped[Array, "b h w c"], height: int, width: int) -> Shaped[Array, "b h2 w2 c"]:
    _, h, w, _ = part.shape
    return jnp.pad(part, ((0, 0), (0, height - h), (0, width - w), (0, 0)))
