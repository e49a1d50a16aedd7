"""ROMP and BEV (simple_romp): PHOTO.npz with `results`, a dict of arrays over people.

`smpl_thetas` (n, 72) axis-angle, `smpl_betas` (n, 10), `cam` (n, 3), `cam_trans` (n, 3), `joints`
(n, 71, 3). The photo is padded to a square of its longer side. ROMP's camera is weak perspective
(s, x, y): a point is at s X + (x, y) in units of half the square. BEV's is a pinhole with a focal
length of 443.4 px for a square of 512 px, and its bodies are moved so that the middle of the hips,
not the model's origin, is at `cam_trans`; the pelvis is the first of `joints`. BEV has an eleventh
beta, the share of a child in the shape, which SMPL and SMPL-X do not have.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.importers.champ import CROP_PX, FOCAL_PX, convert_crop_to_photo
from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    find_files,
    find_largest,
    get_field,
    index_by_stem,
    make_pinhole_camera,
    parse_numbers,
    parse_rows,
)
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.body.smpl_to_smplx import MEAN_REST_PELVIS_M
from omfa_jax.core.errors import OmfaError

log = logging.getLogger(__name__)

BEV_FOCAL_PX, BEV_SQUARE_PX = 443.4, 512
BEV_BETAS = 11
VIDEO_FILE = "video_results.npz"


class RompImporter:
    """Importer of a folder with one .npz per photo, a single one, or video_results.npz."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._allow_pickle = reading.allow_pickle
        self._warned = False
        files = [file for file in find_files(path, ".npz") if path.is_file() or not _is_video(file)]
        self.frames: dict[str, Any] = dict(index_by_stem(files))
        if path.is_file() and _is_video(path):
            frames = get_field(self._load(path), "results")
            if not isinstance(frames, dict):
                raise OmfaError(f"{path}: expected a dict of frames, got {type(frames).__name__}")
            self.frames = {Path(str(name)).stem: found for name, found in frames.items()}

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person who is largest in the photo."""
        found = self.frames[frame]
        if isinstance(found, Path):
            raw = self._load(found)
            # np.savez(file, results=outputs); some save the dict itself
            found = raw.get("results", raw) if isinstance(raw, dict) else raw
        thetas = parse_rows(get_field(found, "smpl_thetas", "poses"), "smpl_thetas", 72)
        betas = parse_numbers(get_field(found, "smpl_betas", "betas"), "smpl_betas")
        is_bev = betas.size == BEV_BETAS * len(thetas)
        betas = parse_rows(betas, "smpl_betas", BEV_BETAS if is_bev else 10, len(thetas))
        cams = parse_rows(get_field(found, "cam"), "cam", 3, len(thetas))
        chosen = find_largest(cams[:, 0].tolist())
        place = _place_bev if is_bev else _place_romp
        if is_bev and betas[chosen, 10] > 0 and not self._warned:
            self._warned = True
            log.warning("BEV's child share of the shape (the eleventh beta) is left out")
        transl, pelvis, focal_px = place(found, chosen, cams[chosen], size_px)
        body = SmplBody(
            betas=betas[chosen, :10],
            global_orient=thetas[chosen, :3],
            body_pose=thetas[chosen, 3:].reshape(23, 3),
            transl=transl,
            pelvis=pelvis,
        )
        # padding is rounded down, so the square's centre may be half a pixel off the photo's
        side = max(size_px)
        center_px = side / 2 - np.array([(side - size) // 2 for size in size_px])
        camera = make_pinhole_camera(np.full(2, focal_px), center_px, size_px)
        return Estimate(body, camera, people=len(thetas))

    def _load(self, path: Path) -> Any:
        return read_pickle(path, "body file", allow_pickle=self._allow_pickle)


def _place_romp(
    found: Any, index: int, cam: np.ndarray, size_px: tuple[int, int]
) -> tuple[np.ndarray, None, float]:
    side = max(size_px)
    # a long lens: the network's camera has no perspective
    focal_px = FOCAL_PX / CROP_PX * side
    # a crop of the whole square, in which HMR2 scales after the shift and ROMP before it
    moved = np.array([cam[0], *(cam[1:] / max(cam[0], 1e-9))])
    center = np.array(size_px) / 2
    return convert_crop_to_photo(moved, center, side, size_px, focal_px), None, focal_px


def _place_bev(
    found: Any, index: int, cam: np.ndarray, size_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float]:
    people = len(parse_rows(found["cam"], "cam", 3))
    shift = parse_rows(get_field(found, "cam_trans"), "cam_trans", 3, people)[index]
    joints = parse_rows(get_field(found, "joints"), "joints", 3)
    if len(joints) % people:
        raise OmfaError(f"joints: expected {people} people, got {len(joints)} joints in all")
    pelvis = shift + joints.reshape(people, -1, 3)[index, 0]
    return pelvis - MEAN_REST_PELVIS_M, pelvis, BEV_FOCAL_PX / BEV_SQUARE_PX * max(size_px)


def _is_video(file: Path) -> bool:
    return file.name == VIDEO_FILE
