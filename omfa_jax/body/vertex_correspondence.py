"""The vertex correspondence from SMPL's mesh to SMPL-X's topology."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from omfa_jax.body.safe_pickle import StandIn, read_pickle
from omfa_jax.body.smpl_model import SPARSE_CLASSES, to_sparse
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path

IDENTITY = "identity"
MASK_FILE = "smplx_mask_ids.npy"


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Each SMPL-X vertex as a weighted mean of SMPL's vertices; `matrix` None is the identity.

    `valid` are the indices of SMPL-X vertices with a counterpart in SMPL (all but the eyeballs and
    the inside of the mouth).
    """

    matrix: Any
    valid: Int[np.ndarray, "n"]

    def __call__(self, vertices: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "n 3"]:
        """Return the positions of the valid SMPL-X vertices on SMPL's mesh."""
        moved = vertices if self.matrix is None else self.matrix @ vertices
        return np.asarray(moved, np.float32)[self.valid]


def load_correspondence(
    path: str | os.PathLike,
    *,
    source_vertices: int,
    target_vertices: int,
    allow_pickle: bool = False,
) -> Correspondence:
    """Return the map from a mesh of `source_vertices` to one of `target_vertices`.

    `path` is smplx's `smpl2smplx_deftrafo_setup.pkl` (needs `allow_pickle`), an .npz with a
    `matrix` (target, source), or "identity" for meshes of the same topology. A
    `smplx_mask_ids.npy` next to the file lists the valid vertices; without it all are valid. Raises
    OmfaError if the file is missing, damaged, pickled without `allow_pickle`, or made for other
    meshes.
    """
    everything = np.arange(target_vertices)
    if os.fspath(path) == IDENTITY:
        if source_vertices != target_vertices:
            raise OmfaError(
                f"--correspondence identity: the meshes have {source_vertices} and"
                f" {target_vertices} vertices; give smpl2smplx_deftrafo_setup.pkl"
            )
        return Correspondence(None, everything)
    what = "vertex correspondence"
    raw = read_pickle(path, what, allow_pickle=allow_pickle, stand_ins=SPARSE_CLASSES)
    found = next((raw[n] for n in ("mtx", "matrix") if n in raw), None) if _is_dict(raw) else None
    if found is None:
        raise OmfaError(f"{what} {path}: expected a dict with `mtx` or `matrix`")
    try:
        matrix = to_sparse(found).tocsr()
    except (ValueError, TypeError, OmfaError) as error:
        raise OmfaError(f"{what} {path}: {error}") from None
    if matrix.shape[1] == 2 * source_vertices:
        # the second half is for offsets along the surface normals, which are zero here
        matrix = matrix[:, :source_vertices]
    if matrix.shape != (target_vertices, source_vertices):
        raise OmfaError(
            f"{what} {path}: its shape is {matrix.shape}, expected"
            f" {(target_vertices, source_vertices)}; it was made for other meshes"
        )
    mask = to_path(path).with_name(MASK_FILE)
    valid = (
        np.unique(read_pickle(mask, "vertex mask", allow_pickle=False)) if mask.exists() else None
    )
    return Correspondence(matrix, everything if valid is None else valid.astype(np.int64))


def _is_dict(raw: Any) -> bool:
    return isinstance(raw, dict) and not isinstance(raw, StandIn)
