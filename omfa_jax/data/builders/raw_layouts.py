"""Detect the layout of a raw data set by its folders."""

from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.records.record_schema import SPLITS

DRESSCODE_FOLDERS = ("upper_body", "lower_body", "dresses")


def detect_layout(root: Path) -> str | None:
    """Return the name of the data set whose layout the folder has, or None."""
    if any((root / split / "image").is_dir() for split in SPLITS):
        return "viton_hd"
    if any((root / name / "images").is_dir() for name in DRESSCODE_FOLDERS):
        return "dresscode"
    if (root / "images").is_dir():
        return "deepfashion_multimodal"
    return None


def make_layout_error(root: Path, expected: str) -> OmfaError:
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
