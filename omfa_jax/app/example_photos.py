"""The example photos that come with the package: synthetic people and garments."""

import hashlib
import shutil
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets" / "app_examples"


def list_examples(kind: str) -> list[Path]:
    """Return the example photos of a kind: "image" (people) or "cloth" (garments)."""
    return sorted((FOLDER / kind).glob("*.jpg"))


def copy_files_beside(photo: Path, target: Path) -> None:
    """Copy the body and the keypoints of an example photo to beside its copy FOLDER/image/NAME.

    An upload is known by its content, because browsers send photos without their folder. Does
    nothing for any other photo.
    """
    example = _index_examples().get(compute_digest(photo))
    if example is None:
        return
    for folder, end in (("smplx", ".npz"), ("openpose_json", "_keypoints.json")):
        source = FOLDER / folder / f"{example.stem}{end}"
        place = target.parent.parent / folder / f"{target.stem}{end}"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, place)


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _index_examples() -> dict[str, Path]:
    return {compute_digest(path): path for path in list_examples("image")}
