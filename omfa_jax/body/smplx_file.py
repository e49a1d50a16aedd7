"""A body model as the .npz file that the `smplx` package loads unmodified."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.model import NUM_POSE_FEATURES, SHAPE_SPACE_DIM, BodyModel
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write

EXPRESSION_SPACE_DIM = 100

# the vertices that smplx reports as extra joints; it wants them at these indices of any model
EXTRA_JOINT_VERTICES: dict[str, int] = {
    "nose": 9120,
    "right_eye": 9929,
    "left_eye": 9448,
    "right_ear": 616,
    "left_ear": 6,
    "left_thumb": 5361,
    "left_index": 4933,
    "left_middle": 5058,
    "left_ring": 5169,
    "left_pinky": 5286,
    "right_thumb": 8079,
    "right_index": 7669,
    "right_middle": 7794,
    "right_ring": 7905,
    "right_pinky": 8022,
    "left_big_toe": 5770,
    "left_small_toe": 5780,
    "left_heel": 8846,
    "right_big_toe": 8463,
    "right_small_toe": 8474,
    "right_heel": 8635,
}


def write_smplx_npz(model: BodyModel, path: str | os.PathLike) -> None:
    """Write all keys that smplx's SMPLX class reads, at the sizes of the official file.

    Shape and expression directions beyond the first 10 are zero, the hands' PCA is the identity
    (use `use_pca=False`), and all face landmarks sit at the nose, since this library has none.
    Raises OmfaError for a mesh too small for smplx's fixed vertex indices.
    """
    vertices = len(model.v_template)
    nose = EXTRA_JOINT_VERTICES["nose"]
    if vertices <= max(EXTRA_JOINT_VERTICES.values()):
        raise OmfaError(f"smplx needs a mesh of more than 9,929 vertices, got {vertices}")
    if Path(path).suffix != ".npz":
        raise OmfaError(f"{path}: expected a body model name ending in .npz")
    shapedirs = np.zeros((vertices, 3, SHAPE_SPACE_DIM + EXPRESSION_SPACE_DIM), np.float32)
    shapedirs[:, :, :10] = model.shapedirs
    shapedirs[:, :, SHAPE_SPACE_DIM : SHAPE_SPACE_DIM + 10] = model.exprdirs
    posedirs = model.posedirs
    if posedirs is None:
        posedirs = np.zeros((vertices, 3, NUM_POSE_FEATURES), np.float32)
    nose_face = np.flatnonzero((model.faces == nose).any(axis=1))[:1]
    hands: dict[str, Any] = {
        f"hands_components{side}": np.eye(45, dtype=np.float32) for side in "lr"
    }
    hands |= {f"hands_mean{side}": np.zeros(45, np.float32) for side in "lr"}
    arrays: dict[str, Any] = {
        "v_template": model.v_template,
        "f": model.faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": posedirs,
        "J_regressor": model.joint_regressor,
        # the root's parent, -1, is 2^32 - 1 in the official file
        "kintree_table": np.stack([model.parents, np.arange(55)]).astype(np.uint32),
        "weights": model.weights,
        "lmk_faces_idx": np.repeat(nose_face, 51),
        "lmk_bary_coords": np.full((51, 3), 1 / 3, np.float32),
        "dynamic_lmk_faces_idx": np.tile(nose_face, (79, 17)),
        "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1 / 3, np.float32),
    }
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays, **hands)
