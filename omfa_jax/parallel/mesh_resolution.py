"""Choice and check of a mesh's axis sizes for a model's weights.

JAX shards a dimension evenly or not at all, and 12 devices divide none of SDXL's widths, which are
5 times powers of two. Without a check every device would silently hold the full model.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import MESH_AXES, MeshSettings, resolve_axis_sizes
from omfa_jax.parallel.sharding_rules import Rules, ShardingCoverage, compute_sharding_coverage

MIN_SHARDED_FRACTION = 0.9
"""Fraction of the weights' bytes. An axis that shards less is an error, or a warning if allowed."""


@dataclass(frozen=True)
class ResolvedMesh:
    """A mesh without -1, what it shards of the weights, and warnings about it."""

    settings: MeshSettings
    coverage: ShardingCoverage
    notes: tuple[str, ...] = ()


def resolve_mesh(
    settings: MeshSettings,
    devices: int,
    rules: Rules,
    params: Mapping[str, Any],
    activations: Mapping[str, Sequence[int]] | None = None,
) -> ResolvedMesh:
    """Return the mesh that `settings` describe over `devices` devices, for weights of these shapes.

    fsdp=-1 becomes the size that leaves the fewest bytes of weights on a device; data takes the
    remaining devices, which changes no result. An axis that shards less than MIN_SHARDED_FRACTION
    of the weights is an OmfaError that suggests the nearest mesh that does, unless
    `settings.allow_replicated`; less than all of them is a warning. fsdp=-1 is an OmfaError if no
    size shards MIN_SHARDED_FRACTION. `activations` (see `get_activation_sizes`) should be divisible
    by tensor.
    """
    sizes: dict[str, int] = dict(zip(MESH_AXES, resolve_axis_sizes(settings, devices), strict=True))
    notes = []
    if settings.fsdp == -1:
        # fsdp has all remaining devices here; moving some to data keeps the batch's shards
        asked, sizes = sizes, _minimize_local_bytes(sizes, rules, params)
        if sizes != asked:
            before = compute_sharding_coverage(rules, params, make_abstract_mesh(asked))
            after = compute_sharding_coverage(rules, params, make_abstract_mesh(sizes))
            # weights that the rules replicate (a VAE's) do not count as missed
            if sizes["fsdp"] == 1 and before.missed_bytes["fsdp"] and not settings.allow_replicated:
                raise OmfaError(
                    f"config.mesh.fsdp=-1: no divisor of {asked['fsdp']} devices shards"
                    f" {MIN_SHARDED_FRACTION:.0%} of the weights, so each would hold"
                    f" {_format_gb(after)}; use another number of devices, or"
                    " --config.mesh.fsdp=1 --config.mesh.data=-1 for full weights on each"
                )
            notes.append(
                f"config.mesh.fsdp=-1 over {asked['fsdp']} devices: fsdp={sizes['fsdp']} with"
                f" data={sizes['data']}, {_format_gb(after)} of weights per device;"
                f" fsdp={asked['fsdp']} would shard {before.get_fraction('fsdp'):.1%} of them"
                f" ({_format_gb(before)})"
            )
    found = compute_sharding_coverage(rules, params, make_abstract_mesh(sizes))
    for axis in found.sharded_bytes:
        enough = found.get_fraction(axis) >= MIN_SHARDED_FRACTION
        if enough and (not found.missed_bytes[axis] or (axis == "fsdp" and notes)):
            # fsdp=-1 has its own note above
            continue
        near = _find_nearest(axis, sizes, rules, params)
        less = compute_sharding_coverage(rules, params, make_abstract_mesh(near))
        text = (
            f"config.mesh.{axis}={sizes[axis]} shards {found.get_fraction(axis):.1%} of the weights"
            f" ({_format_gb(found)} per device) and replicates the rest; the nearest size that"
            f" divides them is --config.mesh.{axis}={near[axis]}"
            f" --config.mesh.data={near['data']} ({_format_gb(less)})"
        )
        if not enough and not settings.allow_replicated:
            raise OmfaError(f"{text}; --config.mesh.allow_replicated=true trains anyway")
        notes.append(text)
    notes += _check_activations(activations or {}, sizes["tensor"])
    return ResolvedMesh(dataclasses.replace(settings, **sizes), found, tuple(notes))


def make_abstract_mesh(sizes: Mapping[str, int]) -> Any:
    """Return a mesh of these sizes without devices, for its shape only."""
    return AbstractMesh(tuple(sizes[axis] for axis in MESH_AXES), MESH_AXES)


def _minimize_local_bytes(
    sizes: Mapping[str, int], rules: Rules, params: Mapping[str, Any]
) -> dict[str, int]:
    """Return the mesh with the fewest bytes per device when devices move from fsdp to data.

    It shards MIN_SHARDED_FRACTION or has fsdp=1. Ties go to the smallest fsdp, which gathers the
    least.
    """

    def order(found: Mapping[str, int]) -> tuple[bool, int, int]:
        made = compute_sharding_coverage(rules, params, make_abstract_mesh(found))
        # sorts first: a size that shards too little never wins by bytes
        short = "fsdp" in made.sharded_bytes and made.get_fraction("fsdp") < MIN_SHARDED_FRACTION
        return short, made.local_bytes, found["fsdp"]

    return min(_trade_with_data("fsdp", sizes, sizes["fsdp"]), key=order)


def _find_nearest(
    axis: str, sizes: Mapping[str, int], rules: Rules, params: Mapping[str, Any]
) -> dict[str, int]:
    """Return the mesh of as many devices whose `axis` misses no weight, nearest to the given size.

    Devices move between data and `axis`. Size 1 misses nothing, so there is one. Ties go to the
    larger size.
    """

    def divides(found: Mapping[str, int]) -> bool:
        made = compute_sharding_coverage(rules, params, make_abstract_mesh(found))
        return axis not in made.sharded_bytes or (
            not made.missed_bytes[axis] and made.get_fraction(axis) >= MIN_SHARDED_FRACTION
        )

    pool = _trade_with_data(axis, sizes, sizes["data"] * sizes[axis])
    return min(
        filter(divides, pool),
        key=lambda found: (abs(found[axis] - sizes[axis]), -found[axis]),
    )


def _trade_with_data(axis: str, sizes: Mapping[str, int], most: int) -> Iterator[dict[str, int]]:
    """Yield the meshes of as many devices whose `axis` divides `most`; data takes the rest."""
    # only data may give or take: it holds no weights, and slice and tensor follow the hardware
    pool = sizes["data"] * sizes[axis]
    for size in range(1, most + 1):
        if most % size == 0:
            yield {**sizes, axis: size, "data": pool // size}


def _check_activations(activations: Mapping[str, Sequence[int]], tensor: int) -> Iterator[str]:
    """Yield a warning for each kind of activation with a size that `tensor` does not divide."""
    for name, found in activations.items():
        undivided = [str(size) for size in found if size % tensor]
        if undivided:
            most = max(size for size in range(1, tensor + 1) if not any(n % size for n in found))
            yield (
                f"config.mesh.tensor={tensor} does not divide {' and '.join(undivided)} {name}:"
                f" each device computes all of them; {most} divides them"
            )


def _format_gb(found: ShardingCoverage) -> str:
    return f"{found.local_bytes / 1e9:.3g} GB"
