"""Check a raw data set before it is built: read every item as `omfa data build` would."""

import collections
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from omfa_jax.body.keypoints.keypoint_reader import (
    DEPTHS,
    NO_PERSON,
    OTHER_ASPECT,
    OTHER_PHOTO,
    OTHER_SIZE,
    PERCENT,
    SEVERAL,
    SMALLER,
)
from omfa_jax.body.landmarks.landmark_json import is_landmark_file
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.process_pool import ordered_map
from omfa_jax.data.builders.build_records import (
    BUILDERS,
    require_item_options,
)
from omfa_jax.data.builders.exclusion_list import HasPhoto
from omfa_jax.data.builders.label_sets import get_label_set
from omfa_jax.data.builders.paired_items import read_item_keypoints
from omfa_jax.data.builders.raw_layouts import resolve_dataset
from omfa_jax.data.checks import photo_duplicates
from omfa_jax.data.checks.check_records import CheckReport, find_duplicate_faults
from omfa_jax.data.checks.record_faults import Finding, find_mask_faults, find_record_faults

# masks that some tools add to VITON-HD: folder -> file name of a key
MASKS = {"cloth-mask": "{}", "agnostic-mask": "{}_mask"}
# a size shared by this share of the photos is the data set's
USUAL_SHARE = 0.9
# id 10 distinguishes CIHP from LIP: torso skin, in most photos, against jumpsuits, in few
DISTINCTIVE_ID, MIN_MAPS = 10, 20
MIN_TORSO_SHARE, MAX_JUMPSUIT_SHARE = 0.05, 0.5

# prefix, or part, of a reader's flaw -> kind of fault
PHRASES = {
    "no face found": "no_face",
    "no in-shop garment": "missing",
    "the unpaired garment": "missing",
    "no ": "absent",
    "damaged ": "unreadable",
    "unusable ": "unreadable",
}
WITHIN = {
    " ids that ": "label_set",
    " differs from the photo's ": "wrong_size",
    OTHER_SIZE: "keypoints",
    OTHER_ASPECT: "keypoints",
    NO_PERSON: "no_person",
    SEVERAL: "several_people",
    OTHER_PHOTO: "keypoints",
    SMALLER: "keypoints",
    PERCENT: "keypoints",
    DEPTHS: "keypoints",
}


@dataclass(frozen=True)
class ItemFindings:
    """The findings of one item, its photo's (height, width), and the ids in its label map."""

    findings: tuple[Finding, ...]
    size_px: tuple[int, int] | None = None
    ids: frozenset[int] | None = None


def check_raw(
    raw_dir: str | os.PathLike,
    *,
    dataset: str | None = None,
    processes: int = 1,
    **item_options: Any,
) -> CheckReport:
    """Read every item of a raw data set and report its faults (see `record_faults.FAULT_KINDS`).

    `dataset`: None detects it by the layout. `item_options`: those of the builder. Raises OmfaError
    for an unknown layout.
    """
    root = require_any_dir(raw_dir, "raw data set", "--raw")
    name = resolve_dataset(root, dataset, BUILDERS)
    report, warnings = CheckReport(), []
    options = require_item_options(name, item_options)
    splits = BUILDERS[name].list_items(os.fspath(root), warnings, **options)
    report.add(str(root), (("missing", warning) for warning in warnings))
    sizes: dict[str, tuple[int, int]] = {}
    ids: list[frozenset[int]] = []
    look = functools.partial(inspect_item, name)
    for split, items in splits.items():
        seen = ordered_map(look, items, processes)
        bar = tqdm(zip(items, seen, strict=True), split, len(items), unit="item", disable=None)
        for item, outcome in bar:
            where = f"{split}/{item.key}"
            report.checked += 1
            report.add(where, outcome.findings)
            if outcome.size_px:
                sizes[where] = outcome.size_px
            if outcome.ids is not None:
                ids.append(outcome.ids)
    report.add("all photos", _find_odd_sizes(sizes))
    report.add(
        "all label maps", _find_wrong_label_set(ids, item_options.get("parse_labels", "cihp"), name)
    )
    found = find_raw_duplicates(
        root, dataset=name, processes=processes, pairs=item_options.get("pairs")
    )
    report.add("all splits", find_duplicate_faults(found.groups))
    return report


def find_raw_duplicates(
    raw_dir: str | os.PathLike,
    *,
    dataset: str | None = None,
    max_distance_bits: int = photo_duplicates.MAX_DISTANCE_BITS,
    processes: int = 1,
    pairs: Sequence[str] | None = None,
) -> photo_duplicates.DuplicateReport:
    """Return the duplicates among the photos of people in all splits of a raw data set.

    `dataset`: None detects it by the layout. `pairs`: lists of other names (see the builders).
    Raises OmfaError for an unknown layout.
    """
    root = require_any_dir(raw_dir, "raw data set", "--raw")
    name = resolve_dataset(root, dataset, BUILDERS)
    options = require_item_options(name, {} if pairs is None else {"pairs": pairs})
    listed = BUILDERS[name].list_items(os.fspath(root), [], **options)
    items = cast(Mapping[str, Sequence[HasPhoto]], listed)
    photos = [
        photo_duplicates.PhotoEntry(split, item.person.relative_to(root).as_posix(), item.person)
        for split, members in items.items()
        for item in members
    ]
    return photo_duplicates.find_duplicates(
        photos, max_distance_bits=max_distance_bits, processes=processes
    )


def inspect_item(dataset: str, item: Any) -> ItemFindings:
    """Return the findings of one item; damage is a finding, never an error."""
    if not item.person.exists():
        return ItemFindings((("missing", f"listed photo {item.person.name} is missing"),))
    try:
        record, flaws = BUILDERS[dataset].read(item)
    except OmfaError as error:
        others = (*_check_masks(item), *_check_keypoints(item), *_find_own_keypoints(item))
        return ItemFindings((*others, (_classify_error(str(error)), str(error))))
    findings = [(_classify_flaw(flaw), flaw) for flaw in flaws]
    findings += [found for found in find_record_faults(record) if found[0] != "no_face"]
    findings += _find_own_keypoints(item)
    ids = None
    parse = getattr(item, "parse", None)
    # photos with a face only: most of them also show the skin of the torso, the trap id
    if parse is not None and record.has_face:
        try:
            ids = frozenset(np.unique(images.read_labels(parse)).tolist())
        except OmfaError:
            ids = None
    return ItemFindings((*findings, *_check_masks(item)), (record.height_px, record.width_px), ids)


def _check_masks(item: Any) -> Iterator[Finding]:
    folder = item.person.parent.parent
    for name, form in MASKS.items():
        stem = form.format(item.person.stem)
        for path in (folder / name / f"{stem}{suffix}" for suffix in READ_SUFFIXES):
            if path.is_file():
                yield from _check_mask(path, name)


def _check_keypoints(item: Any) -> Iterator[Finding]:
    """Yield the findings on the keypoints of an item that has no record."""
    if getattr(item, "keypoints", None) is None:
        return
    try:
        height_px, width_px = images.read_rgb(item.person).shape[:2]
    except OmfaError:
        # the photo is a finding itself
        return
    flaws: list[str] = []
    read_item_keypoints(item, (width_px, height_px), flaws)
    yield from ((_classify_flaw(flaw), flaw) for flaw in flaws)


def _find_own_keypoints(item: Any) -> Iterator[Finding]:
    path = getattr(item, "keypoints", None)
    if path is not None and is_landmark_file(path):
        yield "found_keypoints", path.name


def _check_mask(path: AnyPath, name: str) -> Iterator[Finding]:
    try:
        mask = images.read_rgb(path, name)
    except OmfaError as error:
        yield "unreadable", str(error)
        return
    for kind, what in find_mask_faults(mask.mean(axis=2).astype(np.uint8)):
        yield kind, f"{name}: {what}"
    if name == "cloth-mask" and not (mask >= 128).any():
        yield "empty_garment", f"{name}: shows no garment"


def _classify_flaw(flaw: str) -> str:
    within = (kind for words, kind in WITHIN.items() if words in flaw)
    begins = (kind for words, kind in PHRASES.items() if flaw.startswith(words))
    return next(within, None) or next(begins, "damaged_record")


def _classify_error(message: str) -> str:
    return "missing" if message.startswith(("no in-shop garment", "no garment")) else "unreadable"


def _find_odd_sizes(sizes: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    counted = collections.Counter(sizes.values()).most_common(1)
    if not counted or counted[0][1] < USUAL_SHARE * len(sizes):
        return
    usual = counted[0][0]
    for where, (height, width) in sizes.items():
        if (height, width) != usual:
            yield "wrong_size", f"{where} is {width}x{height} px, most are {usual[1]}x{usual[0]}"


def _find_wrong_label_set(
    ids: Sequence[frozenset[int]], labels: str, dataset: str
) -> Iterator[Finding]:
    """Yield a finding if the frequency of id 10, where CIHP and LIP differ, contradicts the set."""
    if dataset != "viton_hd" or len(ids) < MIN_MAPS:
        return
    share = sum(DISTINCTIVE_ID in shown for shown in ids) / len(ids)
    observed = f"{100 * share:.0f}% of {len(ids)} maps with a face contain id {DISTINCTIVE_ID}"
    if get_label_set(labels).name == "CIHP" and share < MIN_TORSO_SHARE:
        yield "label_set", f"{observed}, CIHP's torso skin; for LIP maps use --parse-labels lip"
    if get_label_set(labels).name == "LIP" and share > MAX_JUMPSUIT_SHARE:
        yield "label_set", f"{observed}, LIP's jumpsuits; for CIHP maps use --parse-labels cihp"
