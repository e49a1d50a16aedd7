"""Lists of photos to leave out: duplicates, and people of the training split among the test's.

A list is JSON with names under "train", "val" or "test", however nested (TryOffDiff's list of
VITON-HD is {"train": {"duplicates": [...]}, "test": {"duplicates": [...], "leaked": [...]}}), or
plain text with a name a line. A name under no split counts in all of them. The key "groups" is
for readers (`omfa data duplicates` writes it).
"""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import parse_json, require_file
from omfa_jax.data.layouts import SPLITS

FOR_READERS = "groups"
NAMES_SHOWN = 3


class HasPhoto(Protocol):
    """An item with the photo of a person."""

    @property
    def person(self) -> Path: ...


ItemT = TypeVar("ItemT", bound=HasPhoto)


def read_list(path: str | os.PathLike) -> list[tuple[str | None, str]]:
    """Return the (split, name) entries of a list; None is every split.

    Raises OmfaError if the file is missing, names nothing, or is JSON of another form.
    """
    source = require_file(path, "list of photos to leave out", "--clean")
    text = source.read_text("utf-8-sig", "replace")
    entries: list[tuple[str | None, str]]
    if source.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        try:
            entries = list(_flattened(parse_json(text), None))
        except ValueError as error:
            raise OmfaError(f"{source}: not valid JSON ({error}); change --clean") from None
    else:
        entries = [(None, line.strip()) for line in text.splitlines() if line.strip()]
    if not entries:
        raise OmfaError(f"{source}: no file name in it; change --clean or leave it out")
    return entries


def drop_listed(
    splits: Mapping[str, Sequence[ItemT]], path: str | os.PathLike | None, warnings: list[str]
) -> dict[str, list[ItemT]]:
    """Return the splits without the listed photos; counts and unknown names go to `warnings`.

    A name matches a photo by its last parts: "000000_0.jpg" as well as
    "upper_body/images/000000_0.jpg"; suffixes do not count. None as `path` drops nothing.
    """
    if path is None:
        return {split: list(items) for split, items in splits.items()}
    found: dict[str, set[int]] = {split: set() for split in splits}
    by_stem = {split: _by_stem(items) for split, items in splits.items()}
    unknown = []
    for listed_split, name in dict.fromkeys(read_list(path)):
        parts = PurePosixPath(name).with_suffix("").parts
        matched = False
        for split in splits if listed_split is None else [listed_split]:
            for index in by_stem.get(split, {}).get(parts[-1], ()):
                photo = splits[split][index].person.with_suffix("")
                if photo.parts[-len(parts) :] == parts:
                    found[split].add(index)
                    matched = True
        if not matched:
            unknown.append(name if listed_split is None else f"{listed_split}/{name}")
    counts = ", ".join(f"{split} {len(dropped)}" for split, dropped in found.items())
    warnings.append(f"{Path(path).name}: left out {counts}")
    if unknown:
        shown = ", ".join(unknown[:NAMES_SHOWN]) + (", ..." if len(unknown) > NAMES_SHOWN else "")
        warnings.append(f"{Path(path).name}: {len(unknown)} names are not in the data ({shown})")
    return {
        split: [item for index, item in enumerate(items) if index not in found[split]]
        for split, items in splits.items()
    }


def _by_stem(items: Sequence[HasPhoto]) -> dict[str, list[int]]:
    places = collections.defaultdict(list)
    for index, item in enumerate(items):
        places[item.person.stem].append(index)
    return places


def _flattened(node: Any, split: str | None) -> Iterator[tuple[str | None, str]]:
    if isinstance(node, str):
        yield split, node
    elif isinstance(node, list):
        for child in node:
            yield from _flattened(child, split)
    elif isinstance(node, dict):
        for key, child in node.items():
            if key != FOR_READERS:
                yield from _flattened(child, key if key in SPLITS else split)
    else:
        raise ValueError(f"expected file names, found {node!r}")
