"""Read the 21 landmarks of DeepFashion-MultiModal.

They are in the order of the figure in the data set's README. Shoulders and hips are on
the silhouette of the clothed body, not at the joints.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from omfa_jax.core.paths import AnyPath, to_path

LANDMARKS = (
    *("crown", "right_ear", "right_eye", "left_eye", "left_ear", "nose", "chin"),
    *("right_shoulder", "left_shoulder", "right_armpit", "left_armpit", "right_elbow"),
    *("left_elbow", "right_wrist", "right_hip", "left_hip", "left_wrist", "right_knee"),
    *("left_knee", "right_ankle", "left_ankle"),
)
# by the flag in the file: visible, occluded, absent
CONFIDENCES = (1.0, 0.5, 0.0)
LOCATIONS_FILE, VISIBILITY_FILE = "keypoints_loc.txt", "keypoints_vis.txt"


def read_landmarks(
    folder: str | os.PathLike, warnings: list[str]
) -> dict[str, Float32[np.ndarray, "21 3"]]:
    """Return {photo's name without suffix: (x px, y px, confidence) rows} of a keypoints/ folder.

    Confidence is 1 for visible, 0.5 for occluded and 0 for absent points. Points of a photo without
    a line in keypoints_vis.txt count as visible. Damaged lines and missing files go to `warnings`.
    """
    places = _read_rows(to_path(folder) / LOCATIONS_FILE, 2 * len(LANDMARKS), warnings)
    flags = (
        _read_rows(to_path(folder) / VISIBILITY_FILE, len(LANDMARKS), warnings) if places else {}
    )
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


def _read_rows(
    path: AnyPath, count: int, warnings: list[str]
) -> dict[str, Float32[np.ndarray, "n"]]:
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
