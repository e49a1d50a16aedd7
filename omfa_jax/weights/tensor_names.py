"""The name table between PyTorch's tensors and our parameter trees, used in both directions.

Module names in the tree are PyTorch's, so a path joined by dots is the key up to its last word.
There are three differences: that word, the order of axes, and stacks of transformer blocks, which
are one array with a leading layer axis here and one tensor per layer in PyTorch.
"""

import collections
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.mismatches import Mismatches, raise_mismatches
from omfa_jax.weights.torch_tensors import LazyTensors

STACKED = "transformer_blocks"
TILE = 128

# (our leaf name, rank) -> (PyTorch's leaf name, permutation from our axes to PyTorch's)
LEAF_NAMES: dict[tuple[str, int], tuple[str, tuple[int, ...]]] = {
    ("kernel", 4): ("weight", (3, 2, 0, 1)),  # height width in out -> out in height width
    ("kernel", 2): ("weight", (1, 0)),  # in out -> out in
    ("scale", 1): ("weight", (0,)),
    ("bias", 1): ("bias", (0,)),
}

# Names of the VAE's attention before diffusers 0.16 -> current names
DEPRECATED = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_DEPRECATED_KEY = re.compile(r"(mid_block\.attentions\.\d+\.)(query|key|value|proj_attn)\.")


@dataclass(frozen=True)
class NameRow:
    """One PyTorch tensor: its key and shape, and its place in our tree.

    `layer` is its index along the leading axis of the array at `path`, or None if the array is not
    stacked; `axes` transposes ours (without the layer axis) to PyTorch's.
    """

    key: str
    shape: tuple[int, ...]
    path: trees.KeyPath
    layer: int | None
    axes: tuple[int, ...]

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Return PyTorch's tensor from the array at `path`, which may hold several layers."""
        ours = array if self.layer is None else array[self.layer]
        return to_contiguous(ours.transpose(self.axes))

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """Return the tensor with its axes in our order."""
        return tensor.transpose(np.argsort(self.axes))


def to_contiguous(view: np.ndarray) -> np.ndarray:
    """Return the array in C order.

    The copy is made in tiles that fit into the cache, twice as fast as numpy's copy of a transpose.
    """
    if view.flags.c_contiguous:
        return view
    out = np.empty(view.shape, view.dtype)
    # tiles along the two longest axes, between which a transpose jumps
    first, second = np.argsort(view.shape)[-2:]
    at = [slice(None)] * view.ndim
    for i in range(0, view.shape[first], TILE):
        for j in range(0, view.shape[second], TILE):
            at[first], at[second] = slice(i, i + TILE), slice(j, j + TILE)
            out[tuple(at)] = view[tuple(at)]
    return out


def make_name_table(tree: Mapping[str, Any]) -> list[NameRow]:
    """Return a row for every PyTorch tensor of `tree`; only the leaves' shapes are used."""
    rows = []
    for path, leaf in trees.flatten(tree):
        shape = tuple(leaf.shape)
        if STACKED not in path:
            rows.append(_make_row(".".join(path[:-1]), shape, path, None))
            continue
        # PyTorch numbers the blocks of a stack after its name: transformer_blocks.3.attn1...
        at = path.index(STACKED) + 1
        for layer in range(shape[0]):
            module = ".".join((*path[:at], str(layer), *path[at:-1]))
            rows.append(_make_row(module, shape[1:], path, layer))
    return rows


def _make_row(
    module: str, shape: tuple[int, ...], path: trees.KeyPath, layer: int | None
) -> NameRow:
    found = LEAF_NAMES.get((path[-1], len(shape)))
    if found is None:
        raise OmfaError(
            f"no PyTorch name for {'/'.join(path)} of shape {shape}; add a row to "
            f"LEAF_NAMES in {__name__}"
        )
    word, axes = found
    return NameRow(f"{module}.{word}", tuple(shape[axis] for axis in axes), path, layer, axes)


def update_key(key: str) -> str:
    """Return `key` with a deprecated name of the VAE's attention replaced by the current one."""
    return _DEPRECATED_KEY.sub(lambda match: f"{match[1]}{DEPRECATED[match[2]]}.", key)


def iter_torch_tensors(
    params: Mapping[str, Any], rows: Sequence[NameRow]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (PyTorch key, contiguous tensor) for `rows`, dtypes unchanged.

    A leaf may be anything that `np.asarray` accepts. It is converted once for all adjacent rows
    that use it, so that lazy leaves are in memory one at a time.
    """
    leaves = dict(trees.flatten(params))
    for path, run in itertools.groupby(rows, key=lambda row: row.path):
        array = np.asarray(leaves[path])
        for row in run:
            yield row.key, row.to_torch(array)


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a PyTorch state dict of contiguous arrays for a parameter tree, dtypes unchanged."""
    return dict(iter_torch_tensors(params, make_name_table(params)))


@dataclass(frozen=True)
class Component:
    """One network of a source: its tree of shapes and the tensors that should fill it.

    `key_fn` maps a key of the name table to the source's key.
    """

    tree: Mapping[str, Any]
    tensors: LazyTensors
    key_fn: Callable[[str], str] = str

    @functools.cached_property
    def rows(self) -> list[NameRow]:
        """The name table of the tree."""
        return make_name_table(self.tree)


def match_keys(component: Component) -> Mismatches:
    """Compare names and shapes, without reading any tensor, and return the mismatches."""
    shapes, faulty = component.tensors.shapes, component.tensors.faulty
    wanted = {component.key_fn(row.key): row.shape for row in component.rows}
    wrong = [
        f"{key} is {shapes[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in shapes and not _shapes_match(shapes[key], shape)
    ]
    return Mismatches(
        component.tensors.where,
        [key for key in wanted if key not in shapes],
        sorted(shapes.keys() - wanted.keys()),
        wrong,
        [f"{key} {faulty[key]}" for key in wanted if key in faulty],
    )


def iter_tensors(component: Component, faults: Mismatches) -> Iterator[tuple[NameRow, np.ndarray]]:
    """Yield (row, array in our axis order) for every matching tensor, read one at a time.

    Tensors with NaN or infinity are added to `faults`.
    """
    shapes, faulty = component.tensors.shapes, component.tensors.faulty
    for row in component.rows:
        key = component.key_fn(row.key)
        if key not in faulty and _shapes_match(shapes.get(key), row.shape):
            # the reshape makes 1x1 convolutions linear layers (see `_shapes_match`)
            tensor = component.tensors.read(key).reshape(row.shape)
            if not np.isfinite(tensor).all():
                faults.not_finite.append(key)
            yield row, row.from_torch(tensor)


def require_match(components: Collection[Component]) -> list[Mismatches]:
    """Return the components' empty mismatches, or raise one OmfaError for all, NaN included."""
    found = [match_keys(component) for component in components]
    if any(faults.by_mark for faults in found):
        for component, faults in zip(components, found, strict=True):
            # read all tensors, so that NaN is reported together with the other mismatches
            collections.deque(iter_tensors(component, faults), maxlen=0)
    raise_mismatches(found)
    return found


def from_torch(components: Mapping[str, Component]) -> dict[str, dict[str, Any]]:
    """Return a float32 tree for each component; all mismatches are one OmfaError."""
    found = require_match(components.values())
    built = {}
    for (name, component), faults in zip(components.items(), found, strict=True):
        leaves = {p: np.empty(leaf.shape, np.float32) for p, leaf in trees.flatten(component.tree)}
        for row, array in iter_tensors(component, faults):
            target = leaves[row.path] if row.layer is None else leaves[row.path][row.layer]
            # the assignment transposes and casts without another copy
            target[...] = array
        built[name] = trees.unflatten(leaves)
    raise_mismatches(found)
    return built


def list_reshaped(component: Component) -> list[str]:
    """Return the source's keys of biases and norms with trailing axes of length 1, (n, 1, 1)."""
    shapes = component.tensors.shapes
    keys = ((component.key_fn(row.key), row.shape) for row in component.rows)
    return [
        key
        for key, shape in keys
        if len(shape) == 1 and shapes.get(key) != shape and _shapes_match(shapes.get(key), shape)
    ]


def _shapes_match(shape: tuple[int, ...] | None, expected: tuple[int, ...]) -> bool:
    # trailing axes of length 1: a linear layer as a 1x1 convolution, as older files have it in the
    # VAE's attention, or a bias as (n, 1, 1)
    if shape is None:
        return False
    return shape == (*expected, *[1] * (len(shape) - len(expected)))
