"""The SMPL model (24 joints), which 4D-Humans and related networks use."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.safe_pickle import StandIn, read_pickle
from omfa_jax.body.smplx_forward import compute_skinning_transforms, skin
from omfa_jax.core.errors import OmfaError, require_modules

NUM_JOINTS = 24
SMPL_DOWNLOAD = "https://smpl.is.tue.mpg.de (registration, non-commercial)"

# sparse matrix classes in the official pickles; only their numbers are read
SPARSE_CLASSES = {
    (f"scipy.sparse{module}", f"{kind}_matrix")
    for kind in ("csc", "csr")
    for module in ("", f".{kind}", f"._{kind}")
}
_CHUMPY = {("chumpy.ch", "Ch"), ("chumpy", "Ch")}
_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


@dataclass(frozen=True, eq=False)
class SmplBody:
    """One SMPL estimate in camera axes, x right, y down, z forward.

    Rotations are axis-angle in radians, float64: global_orient (3,), body_pose (23, 3). `transl`
    (metres) is added to the posed model. `pelvis` (3,) is the estimate's pelvis position in metres,
    None if its file does not have it.
    """

    betas: Float64[np.ndarray, "10"]
    global_orient: Float64[np.ndarray, "3"]
    body_pose: Float64[np.ndarray, "23 3"]
    transl: Float64[np.ndarray, "3"]
    pelvis: Float64[np.ndarray, "3"] | None = None


@dataclass(frozen=True, eq=False)
class SmplModel:
    """An SMPL model for 10 betas; metres, y up, as BodyModel; `posedirs` may be None."""

    v_template: Float32[np.ndarray, "v 3"]
    shapedirs: Float32[np.ndarray, "v 3 10"]
    posedirs: Float32[np.ndarray, "v 3 207"] | None
    joint_regressor: Float32[np.ndarray, "24 v"]
    weights: Float32[np.ndarray, "v 24"]
    parents: Int32[np.ndarray, "24"]

    def compute_rest_pelvis(self, betas: Float[np.ndarray, "10"]) -> Float64[np.ndarray, "3"]:
        """Return the pelvis position of a shape in the rest pose, in metres."""
        return self.joint_regressor[0].astype(np.float64) @ (
            self.v_template + self.shapedirs @ betas
        )


def load_smpl_model(path: str | os.PathLike, *, allow_pickle: bool = False) -> SmplModel:
    """Return the SMPL model in an .npz or an official .pkl (which needs `allow_pickle`).

    Raises OmfaError if the file is missing, damaged, pickled without `allow_pickle`, or not SMPL.
    """
    raw = read_pickle(
        path, "SMPL model", allow_pickle=allow_pickle, stand_ins=SPARSE_CLASSES | _CHUMPY
    )
    names = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table")
    missing = [name for name in names if not isinstance(raw, dict) or name not in raw]
    if missing:
        raise OmfaError(f"SMPL model {path}: not SMPL, missing {', '.join(missing)}")
    try:
        arrays = {name: to_dense(raw[name]) for name in names}
        posedirs = to_dense(raw["posedirs"]) if "posedirs" in raw else None
    except (ValueError, TypeError, OmfaError) as error:
        raise OmfaError(f"SMPL model {path}: {error}") from None
    v = arrays["v_template"].shape[0]
    shapes = {"v_template": (v, 3), "J_regressor": (NUM_JOINTS, v), "weights": (v, NUM_JOINTS)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise OmfaError(
                f"SMPL model {path}: {name} is {arrays[name].shape}, expected {shape};"
                f" SMPL's files are available at {SMPL_DOWNLOAD}"
            )
    # uint32 files store the root's parent as 2^32 - 1
    parents = arrays["kintree_table"][0].astype(np.int64).astype(np.int32)
    parents[0] = -1
    if tuple(parents) != _PARENTS:
        raise OmfaError(f"SMPL model {path}: its joint tree is not SMPL's")
    return SmplModel(
        v_template=arrays["v_template"].astype(np.float32),
        shapedirs=arrays["shapedirs"][:, :, :10].astype(np.float32),
        posedirs=None if posedirs is None else posedirs.astype(np.float32),
        joint_regressor=arrays["J_regressor"].astype(np.float32),
        weights=arrays["weights"].astype(np.float32),
        parents=parents,
    )


def forward_smpl(
    model: SmplModel, body: SmplBody
) -> tuple[Float32[np.ndarray, "v 3"], Float64[np.ndarray, "24 3"]]:
    """Return (vertices, joints) in metres in camera axes.

    Source: Loper et al., "SMPL: A Skinned Multi-Person Linear Model" (2015), equations 2-10.
    """
    rotations = axis_angle_to_matrix(np.concatenate([body.global_orient[None], body.body_pose]))
    rest = model.v_template + model.shapedirs @ body.betas.astype(np.float32)
    rest_joints = model.joint_regressor.astype(np.float64) @ rest
    if model.posedirs is not None:
        feature = (rotations[1:] - np.eye(3)).astype(np.float32).ravel()
        rest = rest + model.posedirs @ feature
    transforms, joints = compute_skinning_transforms(rotations, rest_joints, model.parents)
    vertices = skin(rest, model.weights, transforms.astype(np.float32))
    return (vertices + body.transl).astype(np.float32), joints + body.transl


def to_dense(value: Any) -> np.ndarray:
    """Return a dense array from an array, a sparse matrix or chumpy's wrapper of an array."""
    if not isinstance(value, StandIn):
        return np.asarray(value)
    if isinstance(value.state, dict) and "x" in value.state:
        return np.asarray(value.state["x"])
    return to_sparse(value).toarray()


def to_sparse(value: Any) -> Any:
    """Return a scipy sparse matrix from an array or a StandIn of a sparse one; else OmfaError."""
    require_modules("this SMPL file's sparse matrices", "body", "scipy")
    from scipy.sparse import csc_matrix, csr_matrix

    if not isinstance(value, StandIn):
        return csr_matrix(np.asarray(value))
    state = value.state if isinstance(value.state, dict) else {}
    shape = state.get("_shape", state.get("shape"))
    if shape is None or not {"data", "indices", "indptr"} <= state.keys():
        raise OmfaError(f"expected an array, found an object with {', '.join(map(str, state))}")
    # the number of pointers distinguishes CSC from CSR; for square matrices assume CSC, as in
    # SMPL's files
    kind = csc_matrix if len(state["indptr"]) == shape[1] + 1 else csr_matrix
    return kind((state["data"], state["indices"], state["indptr"]), shape=shape)
