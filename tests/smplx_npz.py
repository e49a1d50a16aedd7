"""A body model as the .npz file that the `smplx` package loads unmodified, to compare with it."""

from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.body_model import NUM_POSE_FEATURES, SHAPE_SPACE_DIM, BodyModel
from omfa_jax.body.smplx_joints import EXTRA_JOINT_VERTICES

EXPRESSION_SPACE_DIM = 100


def write_smplx_npz(model: BodyModel, path: Path) -> None:
    """Write all keys that smplx's SMPLX class reads, at the sizes of the official file.

    Shape and expression directions beyond the first 10 are zero, the hands' PCA is the identity
    (use `use_pca=False`), and all face landmarks sit at the nose, since this library has none. The
    mesh must have more vertices than smplx's fixed indices.
    """
    vertices = len(model.v_template)
    nose = EXTRA_JOINT_VERTICES["nose"]
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
    np.savez_compressed(path, **arrays, **hands)
