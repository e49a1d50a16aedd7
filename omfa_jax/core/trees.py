"""Nested dicts flattened to tuple paths, and ordered rule tables over path names.

Paths are tuples because the names contain dots (`resnets.0`), as PyTorch's do.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

KeyPath = tuple[str, ...]
T = TypeVar("T")


def flatten(tree: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (path, leaf) in the tree's order; everything that is not a mapping is a leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def unflatten(leaves: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Return the nested dict of a flat {path: leaf}, the inverse of `dict(flatten(tree))`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def find_first_match(rules: Sequence[tuple[str, T]], name: str) -> tuple[str, T] | None:
    """Return the first (pattern, value) whose regular expression matches in `name`, or None."""
    for pattern, value in rules:
        if re.search(pattern, name):
            return pattern, value
    return None
