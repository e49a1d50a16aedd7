"""Detect the layout of a raw data set by its folders, and find its lists of pairs."""

import itertools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.raw_files import read_pairs
from omfa_jax.data.records.record_schema import SPLITS

log = logging.getLogger(__name__)

DRESSCODE_FOLDERS = ("upper_body", "lower_body", "dresses")
# files that may be lists of pairs, and how many lines of one are looked at
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")
LOOKED_AT = 200


def list_layouts(root: AnyPath) -> list[str]:
    """Return the names of the data sets whose layout the folder has."""
    looks = {
        "viton_hd": [root / split / "image" for split in SPLITS],
        "dresscode": [root / name / "images" for name in DRESSCODE_FOLDERS],
        "deepfashion_multimodal": [root / "images"],
    }
    return [name for name, folders in looks.items() if any(folder.is_dir() for folder in folders)]


def detect_layout(root: AnyPath) -> str | None:
    """Return the name of the data set whose layout the folder has; None for none or several."""
    found = list_layouts(root)
    return found[0] if len(found) == 1 else None


def resolve_dataset(root: AnyPath, dataset: str | None, known: Collection[str]) -> str:
    """Return the data set's name: `dataset` if given, else detected by the layout, and logged.

    Raises OmfaError for a name that is not in `known`, an unknown layout, and several of them.
    """
    if dataset is not None:
        if dataset not in known:
            raise make_unknown_name_error("data set (--dataset)", dataset, known)
        return dataset
    found = list_layouts(root)
    if len(found) > 1:
        raise OmfaError(
            f"{root} has the folders of {' and '.join(found)}: say which of them it is with"
            f" {' or '.join(f'--dataset {name}' for name in found)}"
        )
    if not found:
        raise make_layout_error(root, f"the layout of a data set ({', '.join(known)})")
    log.info("%s has the layout of %s (--dataset chooses another)", root, found[0])
    return found[0]


def make_layout_error(root: AnyPath, expected: str) -> OmfaError:
    """Return the error for a folder without the `expected` layout.

    It lists what is there, and names the data set or the sub-folder whose layout matches.
    """
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    found = ", ".join(names[:8]) or "nothing"
    hint = ""
    if other := detect_layout(root):
        hint = f"; this is the layout of {other}: use --dataset {other}"
    else:
        inner = [(name, detect_layout(root / name)) for name in names if (root / name).is_dir()]
        if place := next(((name, kind) for name, kind in inner if kind), None):
            hint = f"; {place[0]}/ has the layout of {place[1]}: use --raw {root / place[0]}"
    return OmfaError(f"{root}: expected {expected}, found {found}{hint}")


def assign_pairs_lists(
    given: Sequence[str] | None, splits: Sequence[str], warnings: list[str]
) -> dict[str, AnyPath]:
    """Return {split: list} of the files in `--pairs`, each "FILE" or "SPLIT=FILE".

    A FILE without a split belongs to the only one of `splits`, or to the one that its name
    contains; the guess goes to `warnings`. Raises OmfaError if there is none, or two lists of one.
    """
    found: dict[str, AnyPath] = {}
    for text in given or ():
        split, file = split_pairs_argument(text)
        path = require_any_file(file, "pairs list", "--pairs")
        if split is None:
            inside = [name for name in SPLITS if name in path.stem.lower()]
            inside = [*splits] if len(splits) == 1 else inside
            if len(inside) != 1:
                raise OmfaError(
                    f"--pairs {file}: of which split is this the list? write one of"
                    f" {', '.join(f'{known}={path.name}' for known in splits or SPLITS)}"
                )
            split = inside[0]
            warnings.append(f"{split}: {path.name} is used as its list of pairs")
        if split not in splits:
            raise OmfaError(
                f"--pairs {text}: there are no photos of {split} (found {', '.join(splits) or '-'})"
            )
        if split in found:
            raise OmfaError(f"--pairs: {split} has two lists, {found[split]} and {path}")
        found[split] = path
    return found


def split_pairs_argument(text: str) -> tuple[str | None, str]:
    """Return (split or None, path) of a value of `--pairs`, "FILE" or "SPLIT=FILE"."""
    split, mark, name = text.partition("=")
    return (split, name) if mark and split in SPLITS else (None, text)


def find_other_list(
    folders: Sequence[AnyPath],
    photos: Collection[str],
    *,
    split: str = "",
    known: Collection[str] = (),
) -> str:
    """Return the name of a file in `folders` that lists pairs of these photos, "" if there is none.

    `photos`: names without suffix. Files named after a split other than `split`, if given, and
    those named in `known` are left out.
    """
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        named = [name for name in SPLITS if name in path.stem.lower()]
        if path.suffix.lower() not in LIST_SUFFIXES or path.name in known:
            continue
        of_another = split and named and split not in named
        if of_another or path.name.startswith(".") or not path.is_file():
            continue
        try:
            pairs = list(itertools.islice(read_pairs(path, [], notes=[]), LOOKED_AT))
        except (OmfaError, OSError):
            continue
        matches = sum(Path(pair.person).stem in photos for pair in pairs)
        if matches and 2 * matches >= len(pairs):
            return str(path)
    return ""
