"""Build records from DressCode (Morelli et al., ECCV 2022) and folders in its layout.

    <root>/{upper_body,lower_body,dresses}/
        images/NNNNNN_0.jpg, NNNNNN_1.jpg    the person's photo, the garment's
        keypoints/NNNNNN_2.json              18 rows (x, y, score, id) in a frame of 384x512 px
        label_maps/NNNNNN_4.png              ATR label maps
        pose/NNNNNN_0.png                    pose maps, rendered from SMPL-X (not part of DressCode)
        train_pairs.txt, test_pairs_paired.txt, test_pairs_unpaired.txt    lines "person garment"

The lists may be in <root> instead, with the category as a third word: 0 (upper), 1 (lower), 2
(dresses) or the folder's name. `--pairs` takes lists of other names in that form. The folder
gives the category and is part of the key: upper_body_000000_0.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.exclusion_list import drop_excluded
from omfa_jax.data.builders.label_sets import ATR, CATEGORIES, Category
from omfa_jax.data.builders.paired_items import PairedItem, read_paired_item
from omfa_jax.data.builders.raw_files import Pair, list_files_by_stem, list_pairs
from omfa_jax.data.builders.raw_layouts import (
    DRESSCODE_FOLDERS,
    assign_pairs_lists,
    find_other_list,
    make_layout_error,
)
from omfa_jax.data.builders.records_builder import RecordsBuilder
from omfa_jax.data.records.record_schema import SPLITS, Record

PAIRINGS = ("paired", "unpaired")
FOLDER_CATEGORIES: dict[str, Category] = dict(zip(DRESSCODE_FOLDERS, CATEGORIES, strict=True))
LISTS = {"train_pairs.txt"} | {f"{split}_pairs_{kind}.txt" for split in SPLITS for kind in PAIRINGS}


class DressCode(RecordsBuilder):
    """TFDS builder of DressCode's layout, see the module's docstring."""

    name = "dresscode"
    item_option_names = ("clean", "person_index", "pairs")

    @staticmethod
    def list_items(
        raw_dir: str,
        warnings: list[str],
        *,
        clean: str | os.PathLike | None = None,
        person_index: int | None = None,
        pairs: Sequence[str] | None = None,
    ) -> Mapping[str, Sequence[PairedItem]]:
        """Return {split: items} of the existing categories; irregularities go to `warnings`.

        `clean`: list of photos to leave out (see `exclusion_list.py`). `person_index`: the person
        of keypoints files with several, None for the largest. `pairs`: lists that replace those
        of a split, "FILE" or "SPLIT=FILE", of the root's form.
        """
        root = require_any_dir(raw_dir, "raw data set", "--raw")
        folders = [name for name in DRESSCODE_FOLDERS if (root / name / "images").is_dir()]
        if not folders:
            raise make_layout_error(root, "upper_body/images, lower_body/images or dresses/images")
        lists = assign_pairs_lists(pairs, SPLITS, warnings)
        splits: dict[str, list[PairedItem]] = {}
        for name in folders:
            for split, items in _list_category_items(root, name, lists, warnings).items():
                splits.setdefault(split, []).extend(items)
        warnings += _find_lost_lines(root, lists, folders)
        # categories may have lists of different splits, so the dict is in any order
        ordered = {split: splits[split] for split in SPLITS if split in splits}
        chosen = {
            split: [replace(item, person_index=person_index) for item in items]
            for split, items in ordered.items()
        }
        return drop_excluded(chosen, clean, warnings)

    @staticmethod
    def read(item: PairedItem) -> tuple[Record, Sequence[str]]:
        """Return the item's record and its flaws; OmfaError if photo or garment are unusable."""
        return read_paired_item(
            item,
            ATR,
            map_name="label map",
            garments="images/",
            pairs="pairs list",
        )


def _list_category_items(
    root: AnyPath, name: str, lists: Mapping[str, AnyPath], warnings: list[str]
) -> dict[str, list[PairedItem]]:
    folder = root / name
    photos = list_files_by_stem(folder / "images")
    keypoints, maps, poses = (
        list_files_by_stem(folder / part) for part in ("keypoints", "label_maps", "pose")
    )
    splits: dict[str, list[PairedItem]] = {}
    # over all splits: a person in train must not be tested on as well
    seen: set[str] = set()
    for split, pairs in _read_pairs(root, name, lists, photos, warnings).items():
        # the unpaired list has the same people with other garments
        others: Mapping[str, str] = {}
        if split in lists:
            # one list for both: whoever is given another garment has it as the unpaired one
            pairs, others = _separate_own_garments(list(pairs), split)
        elif split != "train":
            unpaired = _read_listing(root, name, f"{split}_pairs_unpaired.txt", warnings)
            others = {Path(pair.person).stem: Path(pair.garment).stem for pair in unpaired or ()}
        for pair in pairs:
            stem, own = Path(pair.person).stem, Path(pair.garment).stem
            if stem in seen:
                warnings.append(f"{split}: {name}/{pair.person} is listed twice; kept the first")
                continue
            seen.add(stem)
            number, other = stem.removesuffix("_0"), others.get(stem, "")
            splits.setdefault(split, []).append(
                PairedItem(
                    key=f"{name}_{stem}",
                    split=split,
                    category=FOLDER_CATEGORIES[name],
                    # a path without a file is skipped with a reason when it is read
                    person=photos.get(stem, folder / "images" / pair.person),
                    garment=photos.get(own),
                    parse=maps.get(f"{number}_4"),
                    keypoints=keypoints.get(f"{number}_2"),
                    pose=poses.get(stem),
                    unpaired_key=f"{name}_{other}" if other else "",
                    unpaired=photos.get(other),
                )
            )
    return splits


def _read_pairs(
    root: AnyPath,
    name: str,
    lists: Mapping[str, AnyPath],
    photos: Mapping[str, AnyPath],
    warnings: list[str],
) -> dict[str, Iterable[Pair]]:
    """Return the pairs of each split; without any list, all photos are training data."""
    found: dict[str, Iterable[Pair]] = {}
    for split in SPLITS:
        if split in lists:
            found[split] = _read_shared_list(lists[split], name, warnings)
            continue
        listing = "train_pairs.txt" if split == "train" else f"{split}_pairs_paired.txt"
        if (pairs := _read_listing(root, name, listing, warnings)) is not None:
            found[split] = pairs
        # with the unpaired list alone: people wear the garment of their own number
        elif pairs := _read_listing(root, name, f"{split}_pairs_unpaired.txt", warnings):
            found[split] = [Pair(pair.person, _get_own_garment(pair.person)) for pair in pairs]
    known = {path.name for path in lists.values()} | LISTS
    if other := find_other_list([root, root / name], photos, known=known):
        advice = f"give --pairs train={other} or --pairs test={other}"
        if not found:
            raise OmfaError(
                f"{name}: expected the list train_pairs.txt, found {other}, which lists photos of"
                f" {name}/images: {advice} (or move it away to use every photo)"
            )
        warnings.append(f"{name}: {other} lists photos of {name}/images, but is not used: {advice}")
    if found:
        return found
    warnings.append(f"{name}: no train_pairs.txt, no test_pairs_paired.txt; using every photo")
    people = [path.name for stem, path in photos.items() if stem.endswith("_0")]
    return {"train": [Pair(person, _get_own_garment(person)) for person in people]}


def _find_lost_lines(
    root: AnyPath, lists: Mapping[str, AnyPath], folders: Sequence[str]
) -> Iterator[str]:
    """Yield a line for each list of all categories that names some without a folder."""
    absent = {FOLDER_CATEGORIES[name]: name for name in DRESSCODE_FOLDERS if name not in folders}
    for path in (*(root / name for name in sorted(LISTS)), *lists.values()):
        if not (absent and path.is_file()):
            continue
        lost = [pair.category for pair in list_pairs(path, []) if pair.category in absent]
        if lost:
            names = ", ".join(name for category, name in absent.items() if category in lost)
            yield f"{path.name}: {len(lost)} lines of {names}, which has no images/ folder"


def _get_own_garment(person: str) -> str:
    return f"{Path(person).stem.removesuffix('_0')}_1.jpg"


def _separate_own_garments(pairs: Sequence[Pair], split: str) -> tuple[list[Pair], dict[str, str]]:
    """Return pairs of people with their own garments, and {person: other garment}."""
    if split == "train":
        return list(pairs), {}
    own = {pair.person: _get_own_garment(pair.person) for pair in pairs}
    others = {
        Path(pair.person).stem: Path(pair.garment).stem
        for pair in pairs
        if Path(pair.garment).stem != Path(own[pair.person]).stem
    }
    return [Pair(pair.person, own[pair.person], pair.category) for pair in pairs], others


def _read_listing(root: AnyPath, name: str, listing: str, warnings: list[str]) -> list[Pair] | None:
    """Return the pairs in a category's own list or the list in the root; None without a list."""
    if (path := root / name / listing).is_file():
        return list_pairs(path, warnings)
    path = root / listing
    return _read_shared_list(path, name, warnings) if path.is_file() else None


def _read_shared_list(path: AnyPath, name: str, warnings: list[str]) -> list[Pair]:
    """Return one category's pairs in a list of all categories."""
    found: list[str] = []
    pairs = list_pairs(path, found)
    if bare := [f"{pair.person} {pair.garment}" for pair in pairs if not pair.category]:
        found.append(f"{path.name}: {len(bare)} lines without a category ({bare[0]})")
    # each category reads the complete list: report its malformed lines once
    warnings += [line for line in found if line not in warnings]
    return [pair for pair in pairs if pair.category == FOLDER_CATEGORIES[name]]
