"""The scene: all meshes of the world in one array, and their skinning to a person's pose."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int32

from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.smplx_forward import axis_angle_to_matrix, compute_skinning_transforms
from omfa_jax.synthetic import mesh_parts, raster_kernels
from omfa_jax.synthetic.hair import STYLES

BONES = 6


@dataclass(frozen=True, eq=False)
class Scene:
    """The person-independent meshes.

    `rest`: rest pose with a slim top, in metres; `fit * loose` is added to it. `attributes`: those
    of `mesh_parts.MeshPart`. `labels`: CIHP id of each vertex. `faces`, `materials`: by hair style,
    the latter one per face. `landmarks`: vertex indices.
    """

    model: BodyModel
    rest: Float32[np.ndarray, "v 3"]
    loose: Float32[np.ndarray, "v 3"]
    shape_dirs: Float32[np.ndarray, "v 3 10"]
    bones: Int32[np.ndarray, "v 6"]
    bone_weights: Float32[np.ndarray, "v 6"]
    attributes: Float32[np.ndarray, "v 6"]
    labels: Int32[np.ndarray, "v"]
    faces: dict[str, Int32[np.ndarray, "f 3"]]
    materials: dict[str, Int32[np.ndarray, "f"]]
    landmarks: dict[str, int]

    def pose_vertices(
        self, params: BodyParams, fit: float
    ) -> tuple[Float32[np.ndarray, "v 3"], Float[np.ndarray, "55 3"]]:
        """Return all vertices and the joints, in metres, for a body in clothes of this fit.

        The skin equals that of `omfa_jax.body.smplx_forward` for a model without pose correctives.
        """
        rest_joints = self.model.joint_template + self.model.joint_dirs[:, :, :10] @ params.betas
        rotations = axis_angle_to_matrix(params.get_full_pose())
        transforms, joints = compute_skinning_transforms(rotations, rest_joints, self.model.parents)
        vertices = np.empty_like(self.rest)
        mesh = raster_kernels.Skinning(
            self.rest, self.loose, self.shape_dirs, self.bones, self.bone_weights
        )
        raster_kernels.skin_vertices(
            mesh, np.float32(fit), params.betas, transforms.astype(np.float32), vertices
        )
        return vertices + params.transl, joints + params.transl


@lru_cache(maxsize=1)
def load_scene() -> Scene:
    """Build the scene around the free body; takes about a second, cached per process."""
    model = load_body_model()
    parts = mesh_parts.build_parts(model)
    base = np.concatenate([part.base for part in parts])
    weights = model.weights[base]
    # the largest weights first: the kernel stops at the first negligible one
    bones = np.argsort(-weights, axis=1)[:, :BONES].astype(np.int32)
    bone_weights = np.take_along_axis(weights, bones, axis=1)
    starts = np.cumsum([0] + [len(part.base) for part in parts])[:-1]
    faces, materials = {}, {}
    for style in STYLES:
        worn = [(part, at) for part, at in zip(parts, starts, strict=True) if style in part.styles]
        faces[style] = np.concatenate([part.faces + at for part, at in worn]).astype(np.int32)
        kinds = [np.full(len(part.faces), part.material) for part, _ in worn]
        materials[style] = np.concatenate(kinds).astype(np.int32)

    def stack_parts(field: str) -> Float32[np.ndarray, "v k"]:
        rows = np.concatenate([getattr(part, field) for part in parts])
        return np.ascontiguousarray(rows, dtype=np.float32)

    marks = mesh_parts.find_landmarks(model)
    return Scene(
        model=model,
        rest=stack_parts("rest"),
        loose=stack_parts("loose"),
        shape_dirs=np.ascontiguousarray(model.shapedirs[base]),
        bones=bones,
        # normalised again: weights beyond the first BONES were dropped
        bone_weights=bone_weights / bone_weights.sum(axis=1, keepdims=True),
        attributes=stack_parts("attributes"),
        labels=np.concatenate([part.labels for part in parts]).astype(np.int32),
        faces=faces,
        materials=materials,
        landmarks={name: int(np.flatnonzero(base == at)[0]) for name, at in marks.items()},
    )
