"""Build records from VITON-HD (Choi et al., CVPR 2021) and folders in its layout.

    <root>/{train,val,test}_pairs.txt        lines "person.jpg garment.jpg"
    <root>/{train,val,test}/image, cloth     photos; a person's own garment has the person's name
        image-parse-v3 | image-parse         CIHP label maps
        openpose_json | openpose-json        keypoints
        pose                                 pose maps, rendered from SMPL-X (not part of VITON-HD)

The second name of a pair is the unpaired garment, used for evaluation. It is ignored in train, as
is common practice. VITON-HD has tops and dresses only; in other folders of this layout a third word
of a line can state where the person's own garment is worn. Lists may have other names (`--pairs`)
and other forms (`core.name_lists`). In val and test a person needs no own garment if the list names
another one.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.exclusion_list import drop_excluded
from omfa_jax.data.builders.label_sets import get_label_set
from omfa_jax.data.builders.paired_items import PairedItem, read_paired_item
from omfa_jax.data.builders.raw_files import (
    Pair,
    list_files_by_stem,
    list_first_nonempty_folder,
    list_pairs,
)
from omfa_jax.data.builders.raw_layouts import (
    assign_pairs_lists,
    find_other_list,
    make_layout_error,
)
from omfa_jax.data.builders.records_builder import RecordsBuilder
from omfa_jax.data.records.record_schema import SPLITS, Record

PARSE_DIRS = ("image-parse-v3", "image-parse")
KEYPOINT_DIRS = ("openpose_json", "openpose-json")


@dataclass(frozen=True)
class VitonItem(PairedItem):
    """The files of one person; `parse_labels`: name of the label set of `parse`, in LABEL_SETS."""

    parse_labels: str = "cihp"


class VitonHD(RecordsBuilder):
    """TFDS builder of VITON-HD's layout, see the module's docstring."""

    name = "viton_hd"
    item_option_names = ("clean", "parse_labels", "person_index", "pairs")

    @staticmethod
    def list_items(
        raw_dir: str,
        warnings: list[str],
        *,
        clean: str | os.PathLike | None = None,
        parse_labels: str = "cihp",
        person_index: int | None = None,
        pairs: Sequence[str] | None = None,
    ) -> Mapping[str, Sequence[VitonItem]]:
        """Return {split: items} of the existing splits; irregularities go to `warnings`.

        `clean`: list of photos to leave out (see `exclusion_list.py`). `parse_labels`: label set of
        the parse maps, for maps that are not VITON-HD's own. `person_index`: the person of
        keypoints files with several, None for the largest. `pairs`: lists that replace
        <root>/SPLIT_pairs.txt, "FILE" or "SPLIT=FILE".
        """
        root = require_any_dir(raw_dir, "raw data set", "--raw")
        get_label_set(parse_labels)
        present = [split for split in SPLITS if (root / split / "image").is_dir()]
        lists = assign_pairs_lists(pairs, present, warnings)
        splits = {}
        for split in SPLITS:
            if split in present:
                listing = lists.get(split, root / f"{split}_pairs.txt")
                items = _list_items(root, split, listing, parse_labels, warnings)
                splits[split] = [replace(item, person_index=person_index) for item in items]
            # photos and lists are separate, so a copy may be incomplete
            elif (root / f"{split}_pairs.txt").is_file():
                warnings.append(f"{split}: {split}_pairs.txt exists but {split}/image does not")
        if not splits:
            raise make_layout_error(root, "train/image, val/image or test/image")
        return drop_excluded(splits, clean, warnings)

    @staticmethod
    def read(item: VitonItem) -> tuple[Record, Sequence[str]]:
        """Return the item's record and its flaws; OmfaError if photo or garment are unusable."""
        return read_paired_item(
            item,
            get_label_set(item.parse_labels),
            map_name="parse map",
            garments="cloth/",
            pairs="pairs file",
        )


def _list_items(
    root: AnyPath, split: str, listing: AnyPath, parse_labels: str, warnings: list[str]
) -> list[VitonItem]:
    folder = root / split
    people, garments = list_files_by_stem(folder / "image"), list_files_by_stem(folder / "cloth")
    maps = list_first_nonempty_folder(folder, PARSE_DIRS)
    found = list_first_nonempty_folder(folder, KEYPOINT_DIRS)
    keypoints = {stem.removesuffix("_keypoints"): path for stem, path in found.items()}
    poses = list_files_by_stem(folder / "pose")
    items, seen = [], set()
    for pair in _read_pairs(root, split, listing, people, warnings):
        key, other = Path(pair.person).stem, Path(pair.garment).stem
        if key in seen:
            warnings.append(
                f"{split}: {pair.person} is listed twice in {listing.name}; kept the first"
            )
            continue
        seen.add(key)
        # a line that names the person's own garment has no unpaired one
        unpaired = other if split != "train" and other != key else ""
        items.append(
            VitonItem(
                key=key,
                split=split,
                # a path without a file is skipped with a reason when it is read
                person=people.get(key, folder / "image" / pair.person),
                garment=garments.get(key),
                parse=maps.get(key),
                keypoints=keypoints.get(key),
                pose=poses.get(key),
                unpaired_key=unpaired,
                unpaired=garments.get(unpaired),
                category=pair.category,
                parse_labels=parse_labels,
            )
        )
    return items


def _read_pairs(
    root: AnyPath, split: str, listing: AnyPath, people: Mapping[str, AnyPath], warnings: list[str]
) -> Iterable[Pair]:
    if listing.is_file():
        return list_pairs(listing, warnings)
    if other := find_other_list([root, root / split], people, split=split):
        raise OmfaError(
            f"{split}: expected the list {listing}, found {other}, which lists photos of"
            f" {split}/image: give --pairs {split}={other} (or move it away to use every photo)"
        )
    warnings.append(f"{split}: no {listing.name}; using every photo in {split}/image")
    return [Pair(photo.name, photo.name) for _, photo in sorted(people.items())]
