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

from omfa_jax.body.importers.importer_common import (
    Estimate,
    FileIndex,
    ImportOptions,
    find_largest,
    get_field,
    get_list,
    make_pinhole_camera,
    parse_numbers,
    parse_rotations,
    parse_rows,
    resize_to_photo,
)
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_file

FOCAL_PX = 5000.0
SQUARE_PX = 256
# OpenPose's MidHip, which is SMPL's pelvis
PELVIS, NUM_JOINTS = 8, 45


class PhalpImporter:
    """Importer of one .pkl of tracks."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        require_file(path, "PHALP tracks", "--in")
        raw = read_pickle(path, "PHALP tracks", allow_pickle=reading.allow_pickle)
        if not isinstance(raw, dict):
            raise OmfaError(
                f"PHALP tracks {path}: expected a dict of frames, got {type(raw).__name__}"
            )
        self.frames: dict[str, Any] = {}
        found = FileIndex()
        for name, frame in raw.items():
            # frames of a video that was not split into images are keyed by (path, time)
            stem = Path(name).stem if isinstance(name, str) else str(name)
            found.add(stem, Path(str(name)))
            self.frames[stem] = frame

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the track with the largest box among those detected in this frame."""
        record = self.frames[frame]
        boxes = parse_rows(get_field(record, "bbox"), "bbox", 4)
        unseen = parse_numbers(get_field(record, "tracked_time"), "tracked_time").ravel()
        bodies = get_list(record, "smpl")
        if not len(boxes) == len(unseen) == len(bodies):
            raise OmfaError("the lists bbox, tracked_time and smpl differ in length")
        seen = np.flatnonzero(unseen == 0)
        if not len(seen):
            raise OmfaError(
                f"no person detected in this frame ({len(boxes)} tracks from earlier frames)"
            )
        index = int(seen[find_largest((boxes[seen, 2] * boxes[seen, 3]).tolist())])
        smpl, cameras = bodies[index], get_list(record, "camera", len(bodies))
        transl = parse_numbers(cameras[index], "camera", (3,))
        joints = get_list(record, "3d_joints") if "3d_joints" in record else []
        pelvis = None
        if len(joints) > index:
            pelvis = parse_rows(joints[index], "3d_joints", 3, NUM_JOINTS)[PELVIS] + transl
        body = SmplBody(
            betas=parse_numbers(get_field(smpl, "betas"), "betas", (10,)),
            global_orient=parse_rotations(get_field(smpl, "global_orient"), "global_orient", 1)[0],
            body_pose=parse_rotations(get_field(smpl, "body_pose"), "body_pose", 23),
            transl=transl,
            pelvis=pelvis,
        )
        # the photo may have been scaled since, so prefer the recorded size
        own_px = size_px
        sizes = get_list(record, "size") if "size" in record else []
        if len(sizes) > index:
            height, width = parse_numbers(sizes[index], "size", (2,))
            own_px = (round(width), round(height))
        side = max(own_px)
        # the estimate's camera is that of the padded square: undo padding and scale
        padding = np.array([(side - own_px[0]) // 2, (side - own_px[1]) // 2])
        focal_px = np.full(2, FOCAL_PX * side / SQUARE_PX)
        camera = resize_to_photo(make_pinhole_camera(focal_px, side / 2 - padding, own_px), size_px)
        return Estimate(body, camera, people=len(seen))
