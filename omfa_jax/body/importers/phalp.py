"""PHALP's tracks (4D-Humans on videos and folders): one joblib .pkl for all frames.

{frame path: {tid, bbox [x0 y0 w h], tracked_time, conf, size [h, w], camera [tx ty tz], smpl
{betas (10), global_orient (1,3,3), body_pose (23,3,3)}, 3d_joints (45, 3), ...}}, lists over
tracks. The photo is padded to a square of side S, (S - w) // 2 on the left and (S - h) // 2 on
top, and resized to 256 px. `camera` is valid there, with a focal length of 5000 px: x = X + camera,
OpenCV axes, centre 128. Tracks not detected in a frame (`tracked_time` > 0) repeat an earlier one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.importers.common import (
    Estimate,
    Found,
    Reading,
    field_of,
    for_photo,
    largest,
    numbers,
    pinhole,
    rotations,
)
from omfa_jax.body.pickles import read_pickle
from omfa_jax.body.smpl import SmplBody
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import require_file

FOCAL_PX = 5000.0
SQUARE_PX = 256
# OpenPose's MidHip, which is SMPL's pelvis
PELVIS = 8


class Phalp:
    """Importer of one .pkl of tracks."""

    def __init__(self, path: Path, reading: Reading) -> None:
        require_file(path, "PHALP tracks", "--in")
        raw = read_pickle(path, "PHALP tracks", trust=reading.trust)
        if not isinstance(raw, dict):
            raise OmfaError(
                f"PHALP tracks {path}: expected a dict of frames, got {type(raw).__name__}"
            )
        self.frames: dict[str, Any] = {}
        found = Found()
        for name, frame in raw.items():
            # frames of a video that was not split into images are keyed by (path, time)
            stem = Path(name).stem if isinstance(name, str) else str(name)
            found.add(stem, Path(str(name)))
            self.frames[stem] = frame

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the track with the largest box among those detected in this frame."""
        record = self.frames[frame]
        boxes = numbers(field_of(record, "bbox"), "bbox").reshape(-1, 4)
        unseen = numbers(field_of(record, "tracked_time"), "tracked_time").ravel()
        if not len(boxes) == len(unseen) == len(field_of(record, "smpl")):
            raise OmfaError("the lists bbox, tracked_time and smpl differ in length")
        seen = np.flatnonzero(unseen == 0)
        if not len(seen):
            raise OmfaError(
                f"nobody detected in this frame ({len(boxes)} tracks from earlier frames)"
            )
        index = int(seen[largest(boxes[seen, 2] * boxes[seen, 3])])
        smpl = record["smpl"][index]
        transl = numbers(field_of(record, "camera")[index], "camera", (3,))
        joints = record["3d_joints"][index] if len(record.get("3d_joints", ())) > index else None
        body = SmplBody(
            betas=numbers(field_of(smpl, "betas"), "betas", (10,)),
            global_orient=rotations(field_of(smpl, "global_orient"), "global_orient", 1)[0],
            body_pose=rotations(field_of(smpl, "body_pose"), "body_pose", 23),
            transl=transl,
            pelvis=None if joints is None else numbers(joints, "3d_joints")[PELVIS] + transl,
        )
        # the photo may have been scaled since, so prefer the recorded size
        own_px = size_px
        if len(record.get("size", ())) > index:
            height, width = numbers(record["size"][index], "size", (2,))
            own_px = (round(width), round(height))
        side = max(own_px)
        padding = np.array([(side - own_px[0]) // 2, (side - own_px[1]) // 2])
        focal_px = np.full(2, FOCAL_PX * side / SQUARE_PX)
        camera = for_photo(pinhole(focal_px, side / 2 - padding, own_px), size_px)
        return Estimate(body, camera, people=len(seen))
