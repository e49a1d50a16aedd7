"""The SMPL-X body model: template mesh, blend shapes, joint regressor and skinning weights."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32

from omfa_jax.body.body_file import read_npz
from omfa_jax.body.packed_body import is_packed, unpack
from omfa_jax.body.smplx_joints import JOINT_PARTS, PARENTS
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path

FREE_BODY_FILE = Path(__file__).parents[1] / "assets" / "body" / "free_body.npz"
SHAPE_SPACE_DIM = 300
NUM_POSE_FEATURES = 54 * 9
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")


@dataclass(frozen=True, eq=False)
class BodyModel:
    """An SMPL-X model for 10 betas and 10 expressions; metres, y up, facing +z.

    Faces are counter-clockwise seen from outside. The root's parent is -1. Each row of `weights`
    and of `joint_regressor` sums to 1. `posedirs` is None for a model without pose correctives.
    """

    v_template: Float32[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"]
    shapedirs: Float32[np.ndarray, "v 3 10"]
    exprdirs: Float32[np.ndarray, "v 3 10"]
    posedirs: Float32[np.ndarray, "v 3 486"] | None
    joint_regressor: Float32[np.ndarray, "55 v"]
    parents: Int32[np.ndarray, "55"]
    weights: Float32[np.ndarray, "v 55"]

    @cached_property
    def blend_dirs(self) -> Float32[np.ndarray, "v3 20"]:
        """Shape and expression directions as one matrix."""
        dirs = np.concatenate([self.shapedirs, self.exprdirs], axis=-1)
        return np.ascontiguousarray(dirs.reshape(-1, dirs.shape[-1]))

    @cached_property
    def joint_template(self) -> Float[np.ndarray, "55 3"]:
        """Joints of the mean body in metres, float64."""
        return self.joint_regressor.astype(np.float64) @ self.v_template.astype(np.float64)

    @cached_property
    def joint_dirs(self) -> Float[np.ndarray, "55 3 20"]:
        """Derivatives of the joints by betas and expressions, float64; the regressor is linear."""
        vertices = len(self.v_template)
        moved = self.joint_regressor @ self.blend_dirs.reshape(vertices, -1)
        return moved.reshape(len(self.parents), 3, -1).astype(np.float64)

    @cached_property
    def part_ids(self) -> Int32[np.ndarray, "v"]:
        """Index into PARTS for each vertex: the part of its joint with the largest weight."""
        return JOINT_PARTS[self.weights.argmax(axis=1)]


def load_body_model(path: str | os.PathLike | None = None) -> BodyModel:
    """Return the SMPL-X model in the .npz at `path`, or the built-in free body for None.

    A licensed SMPLX_*.npz can be used unchanged; of its 300 shape and 100 expression directions the
    first 10 of each are kept. Raises OmfaError if the file is missing, damaged or not SMPL-X.
    """
    path = FREE_BODY_FILE if path is None else to_path(path)
    arrays = read_npz(path, "body model", "--smplx-model")
    if is_packed(arrays):
        arrays = unpack(arrays)
    missing = [key for key in _KEYS if key not in arrays and key != "posedirs"]
    if missing:
        raise OmfaError(f"body model {path}: not SMPL-X, missing {', '.join(missing)}")
    _require_smplx(arrays, path)
    vertices = len(arrays["v_template"])
    # uint32 files store the root's parent as 2^32 - 1
    parents = arrays["kintree_table"][0].astype(np.int64).astype(np.int32)
    parents[0] = -1
    if not np.array_equal(parents, PARENTS):
        raise OmfaError(f"body model {path}: its joint tree is not SMPL-X's")
    return BodyModel(
        v_template=_to_float32(arrays["v_template"]),
        faces=np.ascontiguousarray(arrays["f"], dtype=np.int32),
        shapedirs=_to_float32(arrays["shapedirs"][:, :, :10]),
        exprdirs=_get_expression_dirs(arrays["shapedirs"]),
        posedirs=_get_pose_correctives(arrays.get("posedirs"), vertices),
        joint_regressor=_to_float32(arrays["J_regressor"]),
        parents=parents,
        weights=_to_float32(arrays["weights"]),
    )


def _require_smplx(arrays: dict[str, np.ndarray], path: AnyPath) -> None:
    """Raise an OmfaError unless shapes, indices and values are those of an SMPL-X model."""
    v = arrays["v_template"].shape[0] if arrays["v_template"].ndim else 0
    directions = max((10, *arrays["shapedirs"].shape[-1:]))
    expected = {
        "v_template": (v, 3),
        "f": (*arrays["f"].shape[:1], 3),
        "shapedirs": (v, 3, directions),
        "J_regressor": (55, v),
        "kintree_table": (2, 55),
        "weights": (v, 55),
    }
    wrong = [
        f"{name} is {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    if wrong:
        raise OmfaError(f"body model {path}: not SMPL-X: {'; '.join(wrong)}")
    broken = [
        name
        for name in ("v_template", "shapedirs", "J_regressor", "weights")
        if not np.isfinite(arrays[name]).all()
    ]
    # written so that NaN fails too
    if broken or not (np.abs(arrays["weights"].sum(axis=1) - 1) < 1e-3).all():
        raise OmfaError(
            f"body model {path}: damaged:"
            f" {', '.join(broken) + ' have NaN' if broken else 'skinning weights do not sum to 1'}"
        )
    if arrays["f"].min(initial=0) < 0 or arrays["f"].max(initial=0) >= v:
        raise OmfaError(f"body model {path}: faces refer to missing vertices (it has {v})")


def _get_expression_dirs(shapedirs: Float[np.ndarray, "v 3 k"]) -> Float32[np.ndarray, "v 3 10"]:
    """Return the expression directions, which follow 300 shape directions, or 10 in trimmed files.

    smplx uses the same rule.
    """
    full = shapedirs.shape[-1] >= SHAPE_SPACE_DIM + 100
    start = SHAPE_SPACE_DIM if full else 10
    found = shapedirs[:, :, start : start + 10]
    absent = np.zeros((*shapedirs.shape[:2], 10 - found.shape[-1]), np.float32)
    return _to_float32(np.concatenate([found, absent], axis=-1))


def _get_pose_correctives(
    posedirs: Float[np.ndarray, "v 3 k"] | None, vertices: int
) -> Float32[np.ndarray, "v 3 486"] | None:
    # the free body has none, which shortens its forward pass
    if posedirs is None or not posedirs.any():
        return None
    if posedirs.shape != (vertices, 3, NUM_POSE_FEATURES):
        raise OmfaError(f"body model: posedirs must be (v, 3, 486), got {posedirs.shape}")
    return _to_float32(posedirs)


def _to_float32(array: np.ndarray) -> Float32[np.ndarray, "..."]:
    return np.ascontiguousarray(array, dtype=np.float32)
