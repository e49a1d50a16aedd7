"""SMPLify-X: results/PHOTO/000.pkl per person, with conf.yaml in the folder above results/.

smplx's names, axis-angle; hand poses are principal components (12 by default) from the relaxed
hand. Camera: x_cam = camera_rotation x + camera_translation, OpenCV axes, focal length 5000 px
unless conf.yaml says otherwise, principal point at the centre of the photo. With VPoser,
`body_pose` has its 32 latent numbers in place of the 63 of the body.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    find_files,
    find_largest,
    get_field,
    make_pinhole_camera,
    parse_numbers,
)
from omfa_jax.body.importers.smplx_params import parse_smplx_params
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_dir

FOCAL_PX = 5000.0
VPOSER_SIZE = 32
_PERSON = re.compile(r"\d{3}")


class SmplifyXImporter:
    """Importer of the output folder, its results/, one photo's folder in it, or a single .pkl."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        self.frames: dict[str, list[Path]] = {}
        for file in _list_results(path):
            # a photo's folder has a file per person; a file elsewhere has the photo's name
            photo = file.parent.name if _PERSON.fullmatch(file.stem) else file.stem
            self.frames.setdefault(photo, []).append(file)
        self._focal_px = _read_focal_length(path)

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the nearest person."""
        people = [self._load(file) for file in self.frames[frame]]
        shifts = [
            parse_numbers(get_field(p, "camera_translation"), "camera_translation", (3,))
            for p in people
        ]
        chosen = find_largest([-shift[2] for shift in shifts])
        raw = people[chosen]
        pose = parse_numbers(get_field(raw, "body_pose"), "body_pose")
        if pose.size == VPOSER_SIZE:
            raise OmfaError(
                f"body_pose has VPoser's {VPOSER_SIZE} latent numbers, which only VPoser can"
                " decode; save body_pose (63), or run SMPLify-X with --use_vposer False"
            )
        body = parse_smplx_params(raw, self._reading, hands_from_mean=True)
        camera = make_pinhole_camera(np.full(2, self._focal_px), np.array(size_px) / 2, size_px)
        if "camera_rotation" in raw:
            turn = parse_numbers(raw["camera_rotation"], "camera_rotation", (3, 3))
            camera = replace(camera, rotation=turn)
        return Estimate(body, replace(camera, translation=shifts[chosen]), people=len(people))

    def _load(self, file: Path) -> dict[str, Any]:
        raw = read_pickle(file, "body file", allow_pickle=self._reading.allow_pickle)
        if not isinstance(raw, dict):
            raise OmfaError(f"{file}: expected a dict of parameters, got {type(raw).__name__}")
        return raw


def _list_results(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = require_dir(path, "bodies to import", "--in")
    folder = folder / "results" if (folder / "results").is_dir() else folder
    files = sorted(file for file in folder.glob("*/*.pkl") if file.name[0] != ".")
    return files or find_files(folder, ".pkl")


def _read_focal_length(path: Path) -> float:
    for folder in (path, *path.absolute().parents[:3]):
        conf = folder / "conf.yaml"
        if conf.is_file():
            found = re.search(
                r"^focal_length:\s*([\d.eE+]+)\s*$", conf.read_text("utf-8", "replace"), re.M
            )
            return float(parse_numbers(found[1], "focal_length", (1,))[0]) if found else FOCAL_PX
    return FOCAL_PX
