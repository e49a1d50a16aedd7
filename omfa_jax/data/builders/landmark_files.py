"""Read the 2D keypoints of DeepFashion-MultiModal (21 landmarks) and DressCode (BODY_18).

The 21 landmarks are in the order of the figure in the data set's README. Shoulders and hips are on
the silhouette of the clothed body, not at the joints.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from omfa_jax.core.atomic_files import parse_json
from omfa_jax.core.errors import OmfaError

LANDMARKS = (
    *("crown", "right_ear", "right_eye", "left_eye", "left_ear", "nose", "chin"),
    *("right_shoulder", "left_shoulder", "right_armpit", "left_armpit", "right_elbow"),
    *("left_elbow", "right_wrist", "right_hip", "left_hip", "left_wrist", "right_knee"),
    *("left_knee", "right_ankle", "left_ankle"),
)
# by the flag in the file: visible, occluded, absent
CONFIDENCES = (1.0, 0.5, 0.0)
LOCATIONS_FILE, VISIBILITY_FILE = "keypoints_loc.txt", "keypoints_vis.txt"

DRESSCODE_FRAME_PX = (384, 512)
DRESSCODE_ROWS = 18


def read_landmarks(
    folder: str | os.PathLike, warnings: list[str]
) -> dict[str, Float32[np.ndarray, "21 3"]]:
    """Return {photo's name without suffix: (x px, y px, confidence) rows} of a keypoints/ folder.

    Confidence is 1 for visible, 0.5 for occluded and 0 for absent points. Points of a photo without
    a line in keypoints_vis.txt count as visible. Damaged lines and missing files go to `warnings`.
    """
    places = _read_rows(Path(folder) / LOCATIONS_FILE, 2 * len(LANDMARKS), warnings)
    flags = _read_rows(Path(folder) / VISIBILITY_FILE, len(LANDMARKS), warnings) if places else {}
    found = {}
    for stem, values in places.items():
        points = values.reshape(-1, 2)
        # coordinates below 0 mean absent, whatever the flag
        absent = (points < 0).any(axis=1)
        kinds = flags.get(stem, np.zeros(len(LANDMARKS), np.float32)).clip(0, 2).astype(int)
        confidence = np.where(absent, 0, np.take(CONFIDENCES, kinds))
        rows = np.concatenate([points, confidence[:, None]], axis=1)
        rows[absent] = 0
        found[stem] = rows.astype(np.float32)
    return found


def read_dresscode_keypoints(
    path: str | os.PathLike, height_px: int, width_px: int
) -> Float[np.ndarray, "18 3"]:
    """Return (x px, y px, score) rows in BODY_18's order, scaled to a photo of the given size.

    The file has rows (x, y, score, row) in a frame of 384x512 px. Rows with a negative x or y (-1
    means missing) become zero. Raises OmfaError if the file is missing or of another form.
    """
    try:
        rows = np.array(parse_json(Path(path).read_text())["keypoints"], float)
    except OSError as error:
        raise OmfaError(f"keypoints {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OmfaError(f"keypoints {path}: not DressCode's JSON ({error!r})") from None
    if rows.shape != (DRESSCODE_ROWS, 4):
        raise OmfaError(f"keypoints {path}: expected 18 rows of 4 numbers, found {rows.shape}")
    scaled = rows[:, :3] * [width_px / DRESSCODE_FRAME_PX[0], height_px / DRESSCODE_FRAME_PX[1], 1]
    return np.where((rows[:, :2] < 0).any(axis=1, keepdims=True), 0, scaled)


def _read_rows(path: Path, count: int, warnings: list[str]) -> dict[str, Float32[np.ndarray, "n"]]:
    try:
        lines = path.read_text("utf-8-sig", "replace").splitlines()
    except OSError:
        warnings.append(f"no {path.parent.name}/{path.name}")
        return {}
    found, damaged = {}, []
    for line in lines:
        name, *words = line.split() or [""]
        try:
            values = np.array(words, np.float32)
        except ValueError:
            values = np.zeros(0, np.float32)
        if name and values.size == count and np.isfinite(values).all():
            found[Path(name).stem] = values
        elif name:
            damaged.append(name)
    if damaged:
        shown = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        warnings.append(f"{path.name}: {len(damaged)} lines ({shown}) without {count} numbers")
    return found
