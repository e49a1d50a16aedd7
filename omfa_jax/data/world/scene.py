"""The scene: every mesh of the world stacked into one, and its way into a person's pose."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int32

from omfa_jax.body.forward import rotation_matrices, skinning_transforms
from omfa_jax.body.model import BodyModel, load_model
from omfa_jax.body.params import BodyParams
from omfa_jax.data.world import kernels, shells
from omfa_jax.data.world.hair import STYLES

BONES = 6


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that does not depend on the person.

    `rest` (metres) is the rest pose with a slim top, to which `fit * loose` is added. `attributes`
    are those of `shells.Part`, `labels` CIHP ids per vertex; `faces` and the `materials` of the
    faces are by hair style; `landmarks` are vertex numbers.
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

    def posed(
        self, params: BodyParams, fit: float
    ) -> tuple[Float32[np.ndarray, "v 3"], Float[np.ndarray, "55 3"]]:
        """Return all vertices and the joints, metres, of a body in clothes of that looseness.

        The skin is where `omfa_jax.body.forward` puts it for a model without pose correctives.
        """
        rest_joints = self.model.joint_template + self.model.joint_dirs[:, :, :10] @ params.betas
        rotations = rotation_matrices(params.full_pose())
        transforms, joints = skinning_transforms(rotations, rest_joints, self.model.parents)
        vertices = np.empty_like(self.rest)
        kernels.skin(
            self.rest,
            self.loose,
            np.float32(fit),
            self.shape_dirs,
            params.betas,
            self.bones,
            self.bone_weights,
            transforms.astype(np.float32),
            vertices,
        )
        return vertices + params.transl, joints + params.transl


@lru_cache(maxsize=1)
def load_scene() -> Scene:
    """Build the scene around the free body (about a second, once per process)."""
    model = load_model()
    parts = shells.all_parts(model)
    base = np.concatenate([part.base for part in parts])
    weights = model.weights[base]
    bones = np.argsort(-weights, axis=1)[:, :BONES].astype(np.int32)
    bone_weights = np.take_along_axis(weights, bones, axis=1)
    starts = np.cumsum([0] + [len(part.base) for part in parts])[:-1]
    faces, materials = {}, {}
    for style in STYLES:
        worn = [(part, at) for part, at in zip(parts, starts, strict=True) if style in part.styles]
        faces[style] = np.concatenate([part.faces + at for part, at in worn]).astype(np.int32)
        kinds = [np.full(len(part.faces), part.material) for part, _ in worn]
        materials[style] = np.concatenate(kinds).astype(np.int32)

    def stacked(field: str) -> Float32[np.ndarray, "v k"]:
        rows = np.concatenate([getattr(part, field) for part in parts])
        return np.ascontiguousarray(rows, dtype=np.float32)

    marks = shells.landmarks(model)
    return Scene(
        model=model,
        rest=stacked("rest"),
        loose=stacked("loose"),
        shape_dirs=np.ascontiguousarray(model.shapedirs[base]),
        bones=bones,
        bone_weights=bone_weights / bone_weights.sum(axis=1, keepdims=True),
        attributes=stacked("attributes"),
        labels=np.concatenate([part.labels for part in parts]).astype(np.int32),
        faces=faces,
        materials=materials,
        landmarks={name: int(np.flatnonzero(base == at)[0]) for name, at in marks.items()},
    )
