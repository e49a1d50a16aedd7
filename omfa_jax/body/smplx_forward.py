"""SMPL-X's forward pass: blend shapes and linear blend skinning, from parameters to a mesh."""

import numpy as np
from jaxtyping import Float, Float32

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.rotations import axis_angle_to_matrix


def forward(
    model: BodyModel, params: BodyParams
) -> tuple[Float32[np.ndarray, "v 3"], Float32[np.ndarray, "55 3"]]:
    """Return (vertices, joints) in metres, world axes; equal to smplx's forward within 1e-5 m.

    Source: Pavlakos et al., "Expressive Body Capture" (SMPL-X), equations 1-4. The joints are
    regressed from the shaped template before pose correctives; `transl` is added last.
    """
    rotations = axis_angle_to_matrix(params.get_full_pose())
    coefficients = np.concatenate([params.betas, params.expression])
    rest = model.v_template + (model.blend_dirs @ coefficients).reshape(-1, 3)
    if model.posedirs is not None:
        # the root is left out: turning the whole body deforms nothing
        feature = (rotations[1:] - np.eye(3)).astype(np.float32).ravel()
        rest = rest + (model.posedirs.reshape(-1, feature.size) @ feature).reshape(-1, 3)
    # float64: errors of the joints add up along the kinematic chain
    rest_joints = model.joint_template + model.joint_dirs @ coefficients.astype(np.float64)
    transforms, joints = compute_skinning_transforms(rotations, rest_joints, model.parents)
    vertices = skin(rest, model.weights, transforms.astype(np.float32))
    return vertices + params.transl, joints.astype(np.float32) + params.transl


def compute_skinning_transforms(
    rotations: Float[np.ndarray, "j 3 3"],
    rest_joints: Float[np.ndarray, "j 3"],
    parents: np.ndarray,
) -> tuple[Float[np.ndarray, "j 3 4"], Float[np.ndarray, "j 3"]]:
    """Return each joint's transform from rest to posed space [R | t], and the posed joints.

    `parents` must list every parent before its children; the root's is -1.
    """
    turned = np.empty((len(parents), 3, 3))
    joints = np.empty((len(parents), 3))
    turned[0], joints[0] = rotations[0], rest_joints[0]
    for joint in range(1, len(parents)):
        parent = parents[joint]
        turned[joint] = turned[parent] @ rotations[joint]
        bone = rest_joints[joint] - rest_joints[parent]
        joints[joint] = turned[parent] @ bone + joints[parent]
    # vertices are given in rest space, so each transform first moves its joint to the origin
    shift = joints - (turned @ rest_joints[:, :, None])[:, :, 0]
    return np.concatenate([turned, shift[:, :, None]], axis=2), joints


def skin(
    rest: Float[np.ndarray, "v 3"],
    weights: Float[np.ndarray, "v j"],
    transforms: Float[np.ndarray, "j 3 4"],
) -> Float[np.ndarray, "v 3"]:
    """Return the vertices transformed by the weighted mean of their joints' transforms."""
    # one dense product is faster than gathering the few non-zero weights
    blended = (weights @ transforms.reshape(len(transforms), 12)).reshape(-1, 3, 4)
    return np.einsum("vij,vj->vi", blended[:, :, :3], rest) + blended[:, :, 3]
