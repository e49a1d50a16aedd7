"""Vertex normals of triangle meshes."""

import numpy as np
from jaxtyping import Float, Float64, Int32


def compute_vertex_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Int32[np.ndarray, "f 3"]
) -> Float64[np.ndarray, "v 3"]:
    """Return unit normals, area-weighted means over faces, outwards for counter-clockwise faces.

    Vertices without a face, or with degenerate faces only, get the zero vector.
    """
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    # the length is twice the face's area, which gives the weighting
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
