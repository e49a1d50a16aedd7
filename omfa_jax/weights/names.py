"""The name table between PyTorch's tensors and our parameter trees, read both ways.

Module names in the tree are PyTorch's, so a path joined by dots is the key up to its last word;
what differs is that word, the order of axes, and that a stack of transformer blocks is one array
with a leading layer axis here and one tensor a layer there.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError

STACKED = "transformer_blocks"

# Our word, rank -> PyTorch's word, and the order in which our axes appear in its tensor.
LEAVES: dict[tuple[str, int], tuple[str, tuple[int, ...]]] = {
    ("kernel", 4): ("weight", (3, 2, 0, 1)),  # height width in out -> out in height width
    ("kernel", 2): ("weight", (1, 0)),  # in out -> out in
    ("scale", 1): ("weight", (0,)),
    ("bias", 1): ("bias", (0,)),
}

# Names of the VAE's attention in files older than diffusers 0.16 -> today's.
DEPRECATED = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_DEPRECATED_KEY = re.compile(r"(mid_block\.attentions\.\d+\.)(query|key|value|proj_attn)\.")


@dataclass(frozen=True)
class Row:
    """One tensor of PyTorch's: its key and shape, and where it lives in our tree.

    `layer` is its index along the leading axis of the array at `path`, or None if it is the whole
    array; `axes` transposes ours (without the layer axis) to PyTorch's.
    """

    key: str
    shape: tuple[int, ...]
    path: trees.Path
    layer: int | None
    axes: tuple[int, ...]

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Return PyTorch's tensor out of the whole array at `path`."""
        ours = array if self.layer is None else array[self.layer]
        return np.ascontiguousarray(ours.transpose(self.axes))

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """Return the tensor with our order of axes."""
        return tensor.transpose(np.argsort(self.axes))


def table(tree: Mapping[str, Any]) -> list[Row]:
    """Return a row for every PyTorch tensor of `tree`, whose leaves need only have shapes."""
    rows = []
    for path, leaf in trees.walk(tree):
        shape = tuple(leaf.shape)
        if STACKED not in path:
            rows.append(_row(".".join(path[:-1]), shape, path, None))
            continue
        at = path.index(STACKED) + 1
        for layer in range(shape[0]):
            module = ".".join((*path[:at], str(layer), *path[at:-1]))
            rows.append(_row(module, shape[1:], path, layer))
    return rows


def _row(module: str, shape: tuple[int, ...], path: trees.Path, layer: int | None) -> Row:
    found = LEAVES.get((path[-1], len(shape)))
    if found is None:
        raise OmfaError(
            f"no PyTorch name for {'/'.join(path)} of shape {shape}; add a row to "
            "LEAVES in omfa_jax/weights/names.py"
        )
    word, axes = found
    return Row(f"{module}.{word}", tuple(shape[axis] for axis in axes), path, layer, axes)


def current_name(key: str) -> str:
    """Return `key` with a deprecated VAE attention name replaced by today's."""
    return _DEPRECATED_KEY.sub(lambda match: f"{match[1]}{DEPRECATED[match[2]]}.", key)


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return PyTorch's flat dict of contiguous tensors for a tree of arrays, dtypes unchanged."""
    leaves = {path: np.asarray(leaf) for path, leaf in trees.walk(params)}
    return {row.key: row.to_torch(leaves[row.path]) for row in table(params)}


def from_torch(
    tree: Mapping[str, Any],
    keys: Collection[str],
    read: Callable[[str], np.ndarray],
    where: str,
) -> dict[str, Any]:
    """Return a float32 tree shaped like `tree` from the tensors `keys`, each got by `read(key)`.

    Missing, unexpected and wrongly shaped tensors are reported together in one OmfaError that
    begins with `where`. `read` is called once for each tensor, so a large file need not be held
    twice.
    """
    current = {current_name(key): key for key in keys}
    rows = table(tree)
    missing = [row.key for row in rows if row.key not in current]
    unexpected = sorted(current.keys() - {row.key for row in rows})
    leaves = {path: np.empty(leaf.shape, np.float32) for path, leaf in trees.walk(tree)}
    wrong = []
    for row in rows:
        if row.key not in current:
            continue
        tensor = read(current[row.key])
        if tensor.shape != row.shape:
            wrong.append(f"{row.key} is {tensor.shape}, expected {row.shape}")
        else:
            target = leaves[row.path] if row.layer is None else leaves[row.path][row.layer]
            target[...] = row.from_torch(tensor)
    faults = [
        _listed(len(found), label, found)
        for label, found in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong))
        if found
    ]
    if faults:
        raise OmfaError(f"{where}: tensors do not fit config.json: {'; '.join(faults)}")
    return trees.build(leaves)


def _listed(count: int, label: str, found: list[str], most: int = 8) -> str:
    rest = f", and {count - most} more" if count > most else ""
    return f"{count} {label} ({', '.join(found[:most])}{rest})"
