"""Read and write lists of photos to leave out: duplicates, and test photos leaked into training.

A list is JSON with names under "train", "val" or "test", nested at any depth (TryOffDiff's list of
VITON-HD is {"train": {"duplicates": [...]}, "test": {"duplicates": [...], "leaked": [...]}}), or
plain text with one name per line. A name outside of any split applies to all splits. The key
"groups" is ignored: `omfa data duplicates` writes it for human readers.
"""

import collections
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from omfa_jax.core.atomic_files import atomic_write, delete_stale_temporaries
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.data.checks import photo_duplicates
from omfa_jax.data.records.record_schema import SPLITS

GROUPS_KEY = "groups"
MAX_NAMES_SHOWN = 3


class HasPhoto(Protocol):
    """An item with a photo of a person."""

    @property
    def person(self) -> AnyPath: ...


ItemT = TypeVar("ItemT", bound=HasPhoto)


def read_exclusion_list(path: str | os.PathLike) -> list[tuple[str | None, str]]:
    """Return the (split, name) entries of a list; split None means all splits.

    A list may be empty, as that of a data set without duplicates. Raises OmfaError if the file is
    missing, or is JSON of another form.
    """
    source = require_any_file(path, "list of photos to leave out", "--clean")
    # a list saved on Windows may begin with a byte order mark
    text = source.read_text("utf-8-sig", "replace")
    entries: list[tuple[str | None, str]]
    if source.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        try:
            entries = list(_flatten_names(parse_json(text), None))
        except ValueError as error:
            raise OmfaError(f"--clean {source}: not valid JSON ({error})") from None
    else:
        entries = [(None, line.strip()) for line in text.splitlines() if line.strip()]
    return entries


def drop_excluded(
    splits: Mapping[str, Sequence[ItemT]], path: str | os.PathLike | None, warnings: list[str]
) -> dict[str, list[ItemT]]:
    """Return the splits without the listed photos; counts and unknown names go to `warnings`.

    A name matches the last parts of a photo's path, without the suffix: "000000_0.jpg" as well as
    "upper_body/images/000000_0.jpg". With `path` None nothing is dropped.
    """
    if path is None:
        return {split: list(items) for split, items in splits.items()}
    found: dict[str, set[int]] = {split: set() for split in splits}
    # indexed by file name first: comparing every name with every path would be quadratic
    by_stem = {split: _index_by_stem(items) for split, items in splits.items()}
    unknown = []
    # dict.fromkeys: in order, without repetitions
    listed = dict.fromkeys(read_exclusion_list(path))
    for listed_split, name in listed:
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
    if not listed:
        counts = "nothing, the list is empty"
    warnings.append(f"{to_path(path).name}: left out {counts}")
    if unknown:
        shown = ", ".join(unknown[:MAX_NAMES_SHOWN]) + (
            ", ..." if len(unknown) > MAX_NAMES_SHOWN else ""
        )
        warnings.append(f"{to_path(path).name}: {len(unknown)} names are not in the data ({shown})")
    return {
        split: [item for index, item in enumerate(items) if index not in found[split]]
        for split, items in splits.items()
    }


def write_exclusion_list(path: AnyPath, report: photo_duplicates.DuplicateReport) -> None:
    """Write the duplicates for `read_exclusion_list`, and the groups for human readers."""
    dropped: dict[str, dict[str, list[str]]] = {}
    groups = []
    for group in report.groups:
        members = [{"split": group.kept.split, "name": group.kept.name, "distance_bits": 0}]
        for photo, distance in group.others:
            kind = "duplicates" if photo.split == group.kept.split else "leaked"
            dropped.setdefault(photo.split, {}).setdefault(kind, []).append(photo.name)
            members.append({"split": photo.split, "name": photo.name, "distance_bits": distance})
        groups.append(members)
    delete_stale_temporaries(path.parent)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**dropped, GROUPS_KEY: groups}, indent=1) + "\n")


def _index_by_stem(items: Sequence[HasPhoto]) -> dict[str, list[int]]:
    places = collections.defaultdict(list)
    for index, item in enumerate(items):
        places[item.person.stem].append(index)
    return places


def _flatten_names(node: Any, split: str | None) -> Iterator[tuple[str | None, str]]:
    if isinstance(node, str):
        yield split, node
    elif isinstance(node, list):
        for child in node:
            yield from _flatten_names(child, split)
    elif isinstance(node, dict):
        for key, child in node.items():
            if key != GROUPS_KEY:
                yield from _flatten_names(child, key if key in SPLITS else split)
    else:
        raise ValueError(f"expected file names, found {node!r}")
