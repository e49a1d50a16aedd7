"""Telling raw data sets apart by their folders, for errors that say what to change."""

from pathlib import Path

from omfa_jax.core.errors import OmfaError

SPLITS = ("train", "val", "test")
DRESSCODE_FOLDERS = ("upper_body", "lower_body", "dresses")


def detect(root: Path) -> str | None:
    """Return the name of the data set whose layout a folder has; None if it has none of them."""
    if any((root / split / "image").is_dir() for split in SPLITS):
        return "viton_hd"
    if any((root / name / "images").is_dir() for name in DRESSCODE_FOLDERS):
        return "dresscode"
    if (root / "images").is_dir():
        return "deepfashion_multimodal"
    return None


def wrong_layout(root: Path, expected: str) -> OmfaError:
    """Return the error for a folder that is not laid out as `expected` says.

    It names what is there, and the data set whose layout it is or the sub-folder that has one.
    """
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    found = ", ".join(names[:8]) or "nothing"
    hint = ""
    if other := detect(root):
        hint = f"; this is the layout of {other}: give --dataset {other}"
    else:
        inner = [(name, detect(root / name)) for name in names if (root / name).is_dir()]
        if place := next(((name, kind) for name, kind in inner if kind), None):
            hint = f"; {place[0]} in it has {place[1]}'s layout: give --raw {root / place[0]}"
    return OmfaError(f"{root}: expected {expected}, found {found}{hint}")
