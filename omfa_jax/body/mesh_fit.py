"""Fit of SMPL-X parameters to a mesh in SMPL-X's topology, by damped Gauss-Newton."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams, make_params_from_pose
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.smplx_forward import compute_skinning_transforms
from omfa_jax.body.smplx_joints import JOINT_INDEX, JOINTS, PARENTS
from omfa_jax.core.errors import OmfaError

MAX_STEPS = 40
MAX_FIT_VERTICES = 1200
MAX_MEAN_ERROR_M = 0.02

_ENOUGH_M = 1e-6
_RIDGE = 1e-9

# SMPL's mesh does not determine jaw and eyes: they are not fitted
_TURNED = np.array(
    [i for name, i in JOINT_INDEX.items() if name not in ("jaw", "left_eye", "right_eye")]
)


def _make_descendant_matrix() -> Float64[np.ndarray, "55 55"]:
    below = np.eye(len(JOINTS))
    for joint in range(len(JOINTS) - 1, 0, -1):
        below[PARENTS[joint]] += below[joint]
    return below


# row j marks the joints that move when joint j rotates: itself and its descendants
_BELOW = _make_descendant_matrix()


@dataclass
class _State:
    """Local rotations (55, 3, 3), betas (10,) and translation (3,), float64."""

    rotations: Float64[np.ndarray, "55 3 3"]
    betas: Float64[np.ndarray, "10"]
    transl: Float64[np.ndarray, "3"]

    def apply_step(self, step: Float64[np.ndarray, "p"]) -> "_State":
        turns, betas, transl = np.split(step, [-13, -3])
        rotations = self.rotations.copy()
        rotations[_TURNED] = axis_angle_to_matrix(turns.reshape(-1, 3)) @ rotations[_TURNED]
        return _State(rotations, self.betas + betas, self.transl + transl)


def fit_mesh(
    model: BodyModel,
    target: Float32[np.ndarray, "n 3"],
    start: BodyParams,
    vertex_ids: Int[np.ndarray, "n"],
) -> BodyParams:
    """Return the parameters whose mesh has vertices `vertex_ids` at `target` (metres).

    Pose (body and hands), shape and translation are fitted, starting from `start`; jaw, eyes and
    expression are kept. At most 1,200 vertices are used. Raises OmfaError if their mean distance
    remains above 2 cm, which indicates another body model or a wrong correspondence.
    """
    # 1,200 vertices are plenty for 169 parameters
    stride = -(-len(vertex_ids) // MAX_FIT_VERTICES)
    ids, target = vertex_ids[::stride], target[::stride].astype(np.float64)
    mesh = _Mesh(model, ids, start)
    state = _State(
        axis_angle_to_matrix(start.get_full_pose()),
        start.betas.astype(np.float64),
        start.transl.astype(np.float64),
    )
    vertices, jacobian = mesh.vertices(state), None
    damping = 1e-3
    for _ in range(MAX_STEPS):
        error = target - vertices
        if jacobian is None:
            jacobian = mesh.jacobian(state)
            normal = jacobian.T @ jacobian
            ridge = _RIDGE * len(ids) * np.eye(len(normal))
        # Marquardt's scaling: radians, betas and metres have different units
        damped = normal + damping * np.diag(np.diag(normal)) + ridge
        tried = state.apply_step(np.linalg.solve(damped, jacobian.T @ error.ravel()))
        reached = mesh.vertices(tried)
        # a rejected step is retried with more damping and the same Jacobian
        if np.square(target - reached).sum() >= np.square(error).sum():
            if damping > 1e6:
                break
            damping *= 8
            continue
        moved = np.abs(reached - vertices).max()
        state, vertices, jacobian, damping = tried, reached, None, damping / 8
        if moved < _ENOUGH_M:
            break
    distance = np.linalg.norm(target - vertices, axis=1).mean()
    if distance > MAX_MEAN_ERROR_M:
        raise OmfaError(
            f"the fitted SMPL-X mesh is {100 * distance:.1f} cm from the SMPL mesh on average"
            f" (limit {100 * MAX_MEAN_ERROR_M:.0f} cm); check --smpl-model and --correspondence"
        )
    pose = np.stack([matrix_to_axis_angle(rotation) for rotation in state.rotations])
    return make_params_from_pose(
        pose, betas=state.betas, expression=start.expression, transl=state.transl
    )


class _Mesh:
    """Some vertices of a model as a function of its parameters, with derivatives."""

    def __init__(self, model: BodyModel, ids: Int[np.ndarray, "n"], start: BodyParams) -> None:
        self._weights = model.weights[ids].astype(np.float64)
        self._below = self._weights @ _BELOW.T
        self._shapedirs = model.shapedirs[ids].astype(np.float64)
        self._template = model.v_template[ids] + model.exprdirs[ids] @ start.expression
        self._joint_dirs = model.joint_dirs[:, :, :10]
        self._joints = model.joint_template + model.joint_dirs[:, :, 10:] @ start.expression
        self._posedirs = None if model.posedirs is None else model.posedirs[ids]

    def _pose(self, state: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rest = self._template + self._shapedirs @ state.betas
        if self._posedirs is not None:
            rest = rest + self._posedirs @ (state.rotations[1:] - np.eye(3)).ravel()
        rest_joints = self._joints + self._joint_dirs @ state.betas
        transforms, joints = compute_skinning_transforms(state.rotations, rest_joints, PARENTS)
        return rest, transforms, joints

    def vertices(self, state: _State) -> Float64[np.ndarray, "n 3"]:
        rest, transforms, _ = self._pose(state)
        blended = np.tensordot(self._weights, transforms, 1)
        return np.einsum("vij,vj->vi", blended[:, :, :3], rest) + blended[:, :, 3] + state.transl

    def jacobian(self, state: _State) -> Float64[np.ndarray, "n3 p"]:
        """Return derivatives by small joint rotations (in the parents' axes), betas and transl.

        Pose correctives are treated as constant: they are small, and only the step is inexact,
        not the error.
        """
        rest, transforms, joints = self._pose(state)
        turned = transforms[:, :, :3]
        # each vertex as moved by each joint alone, times its weight, summed over the descendants of
        # a joint: the lever arm of that joint's rotation
        carried = np.einsum("kij,vj->kvi", turned, rest) + transforms[:, None, :, 3]
        carried = self._weights.T[:, :, None] * carried
        carried = np.tensordot(_BELOW[_TURNED], carried, 1)
        lever = carried - self._below.T[_TURNED][:, :, None] * joints[_TURNED][:, None]
        parents = np.where(PARENTS[_TURNED] < 0, 0, PARENTS[_TURNED])
        axes = turned[parents]
        axes[PARENTS[_TURNED] < 0] = np.eye(3)
        # column a: the axis (world) crossed with the lever
        turns = np.cross(axes.swapaxes(1, 2)[:, None, :, :], lever[:, :, None, :])
        turns = turns.transpose(1, 3, 0, 2).reshape(3 * len(rest), -1)
        shapes = self._shape_columns(turned)
        shifts = np.tile(np.eye(3), (len(rest), 1))
        return np.concatenate([turns, shapes, shifts], axis=1)

    def _shape_columns(self, turned: Float[np.ndarray, "55 3 3"]) -> Float64[np.ndarray, "n3 10"]:
        moved = np.empty_like(self._joint_dirs)
        moved[0] = self._joint_dirs[0]
        for joint in range(1, len(PARENTS)):
            parent = PARENTS[joint]
            bone = self._joint_dirs[joint] - self._joint_dirs[parent]
            moved[joint] = moved[parent] + turned[parent] @ bone
        shift = moved - turned @ self._joint_dirs
        blended = np.tensordot(self._weights, turned, 1)
        columns = blended @ self._shapedirs + np.tensordot(self._weights, shift, 1)
        return columns.reshape(-1, columns.shape[-1])
