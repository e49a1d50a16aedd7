"""Whether a mesh divides a model: what its axes leave whole, and the meshes that leave nothing.

An axis cuts a dimension evenly or not at all, and 12 devices divide none of SDXL's widths, which
are 5 times powers of two. Left alone, every device would hold the whole model without a word.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import AXES, MeshSettings, axis_sizes
from omfa_jax.parallel.rules import Coverage, Rules, coverage

LEAST_SHARE = 0.9
"""Of the weights' bytes: an axis that cuts less is an error, unless the config allows it."""


@dataclass(frozen=True)
class Division:
    """A mesh without -1, what it cuts of the weights, and what there is to say of it (lines)."""

    settings: MeshSettings
    coverage: Coverage
    notes: tuple[str, ...] = ()


def division(
    settings: MeshSettings,
    devices: int,
    rules: Rules,
    params: Mapping[str, Any],
    activations: Mapping[str, Sequence[int]] | None = None,
) -> Division:
    """Return the mesh that `settings` ask for over so many devices, for weights of these shapes.

    Where fsdp is -1 it becomes the count that leaves the fewest bytes of weights on a device;
    data takes the rest, which changes no result. An axis that cuts less than LEAST_SHARE of the
    weights is an OmfaError that names the nearest mesh that cuts them, unless
    `settings.allow_replicated`; less than all is a note. A -1 for which no count cuts as much is
    refused too. `activations` (see `activation_sizes`) are what tensor should divide too.
    """
    sizes: dict[str, int] = dict(zip(AXES, axis_sizes(settings, devices), strict=True))
    notes = []
    if settings.fsdp == -1:
        asked, sizes = sizes, _fewest_bytes(sizes, rules, params)
        if sizes != asked:
            before = coverage(rules, params, abstract(asked))
            after = coverage(rules, params, abstract(sizes))
            # weights that rules leave whole (a VAE's) are not meant to be cut
            if sizes["fsdp"] == 1 and before.missed["fsdp"] and not settings.allow_replicated:
                raise OmfaError(
                    f"config.mesh.fsdp=-1: no part of the {asked['fsdp']} devices cuts"
                    f" {LEAST_SHARE:.0%} of the weights, so each would hold {_gigabytes(after)};"
                    " take another number of devices, or"
                    " --config.mesh.fsdp=1 --config.mesh.data=-1 for whole weights on each"
                )
            notes.append(
                f"config.mesh.fsdp=-1 over {asked['fsdp']} devices: fsdp={sizes['fsdp']} with"
                f" data={sizes['data']}, {_gigabytes(after)} of weights on each device;"
                f" fsdp={asked['fsdp']} would cut {before.share('fsdp'):.1%} of them"
                f" ({_gigabytes(before)})"
            )
    found = coverage(rules, params, abstract(sizes))
    for axis in found.cut:
        enough = found.share(axis) >= LEAST_SHARE
        if enough and (not found.missed[axis] or (axis == "fsdp" and notes)):
            # what a count that was looked for leaves whole has been told above
            continue
        near = _nearest(axis, sizes, rules, params)
        less = coverage(rules, params, abstract(near))
        text = (
            f"config.mesh.{axis}={sizes[axis]} cuts {found.share(axis):.1%} of the weights"
            f" ({_gigabytes(found)} on each device), the rest is whole on every one; the nearest"
            f" that divides them is --config.mesh.{axis}={near[axis]}"
            f" --config.mesh.data={near['data']} ({_gigabytes(less)})"
        )
        if not enough and not settings.allow_replicated:
            raise OmfaError(f"{text}; --config.mesh.allow_replicated=true trains all the same")
        notes.append(text)
    notes += _whole_activations(activations or {}, sizes["tensor"])
    return Division(dataclasses.replace(settings, **sizes), found, tuple(notes))


def abstract(sizes: Mapping[str, int]) -> Any:
    """Return a mesh of these sizes without devices; all that is asked of it is its shape."""
    return AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES)


def _fewest_bytes(
    sizes: Mapping[str, int], rules: Rules, params: Mapping[str, Any]
) -> dict[str, int]:
    """Return the mesh, devices going from fsdp to data, with the fewest bytes on a device.

    It cuts LEAST_SHARE or has fsdp=1. Of equal ones the smallest fsdp, which gathers the least.
    """

    def order(found: Mapping[str, int]) -> tuple[bool, int, int]:
        made = coverage(rules, params, abstract(found))
        short = "fsdp" in made.cut and made.share("fsdp") < LEAST_SHARE
        return short, made.local, found["fsdp"]

    return min(_moved("fsdp", sizes, sizes["fsdp"]), key=order)


def _nearest(
    axis: str, sizes: Mapping[str, int], rules: Rules, params: Mapping[str, Any]
) -> dict[str, int]:
    """Return the mesh of as many devices whose `axis` misses no weight, nearest to what it was.

    Devices come from data and go there; at 1 nothing is missed. Of two as near, the larger.
    """

    def divides(found: Mapping[str, int]) -> bool:
        made = coverage(rules, params, abstract(found))
        return axis not in made.cut or (not made.missed[axis] and made.share(axis) >= LEAST_SHARE)

    pool = _moved(axis, sizes, sizes["data"] * sizes[axis])
    return min(
        filter(divides, pool),
        key=lambda found: (abs(found[axis] - sizes[axis]), -found[axis]),
    )


def _moved(axis: str, sizes: Mapping[str, int], most: int) -> Iterator[dict[str, int]]:
    """Yield the meshes of as many devices whose `axis` divides `most`, the others in data."""
    pool = sizes["data"] * sizes[axis]
    for size in range(1, most + 1):
        if most % size == 0:
            yield {**sizes, axis: size, "data": pool // size}


def _whole_activations(activations: Mapping[str, Sequence[int]], tensor: int) -> Iterator[str]:
    """Yield a line for each kind of activation that `tensor` does not divide everywhere."""
    for name, found in activations.items():
        whole = [str(size) for size in found if size % tensor]
        if whole:
            most = max(size for size in range(1, tensor + 1) if not any(n % size for n in found))
            yield (
                f"config.mesh.tensor={tensor} does not divide {' and '.join(whole)} {name}: each"
                f" device computes all of them; {most} divides them"
            )


def _gigabytes(found: Coverage) -> str:
    return f"{found.local / 1e9:.3g} GB"
