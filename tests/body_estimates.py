"""Bodies with known joints, and files of them as the pose networks' own code writes them."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.hand_pose import HandBasis
from omfa_jax.body.importers.importer_common import ImportOptions
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_model import SmplBody, SmplModel, forward_smpl
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX, PARENTS

BODY = 22
# SMPL's origin is not where the free body's is: a pelvis taken for an origin shows
ORIGIN = np.array([0.01, 0.12, -0.02], np.float32)


@functools.cache
def free_body() -> BodyModel:
    return load_body_model(None)


def reading(allow_pickle: bool = True, hands: HandBasis | None = None) -> ImportOptions:
    return ImportOptions(allow_pickle, free_body(), hands or HandBasis(np.zeros((2, 45)), None))


def fake_smpl(*, shuffled: bool = True) -> tuple[SmplModel, np.ndarray]:
    """Return a SMPL model cut from the free body: other order, other origin; and that order."""
    model = free_body()
    order = np.arange(len(model.v_template))
    if shuffled:
        order = np.random.default_rng(5).permutation(order)
    hands = [JOINT_INDEX["left_middle1"], JOINT_INDEX["right_middle1"]]
    joint_of = np.array([j if j < BODY else 15 if j < 25 else 22 + (j >= 40) for j in range(55)])
    weights = model.weights[order] @ np.eye(24, dtype=np.float32)[joint_of]
    smpl = SmplModel(
        v_template=model.v_template[order] + ORIGIN,
        shapedirs=model.shapedirs[order],
        posedirs=None,
        joint_regressor=model.joint_regressor[[*range(BODY), *hands]][:, order],
        weights=weights,
        parents=np.array([*PARENTS[:BODY], 20, 21], np.int32),
    )
    return smpl, order


def save_smpl(path: Path, smpl: SmplModel) -> None:
    np.savez(
        path,
        v_template=smpl.v_template,
        shapedirs=smpl.shapedirs,
        J_regressor=smpl.joint_regressor,
        weights=smpl.weights,
        kintree_table=np.stack([smpl.parents, np.arange(24)]).astype(np.uint32),
    )


def some_smpl(seed: int, *, shaped: bool = False) -> SmplBody:
    """Return a person who stands upright in a camera's axes, with hands at rest."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(scale=0.25, size=(23, 3))
    pose[21:] = 0
    return SmplBody(
        betas=rng.normal(size=10) if shaped else np.zeros(10),
        global_orient=np.array([np.pi, 0, 0]) + rng.normal(scale=0.2, size=3),
        body_pose=pose,
        transl=np.zeros(3),
    )


def some_smplx(seed: int) -> BodyParams:
    rng = np.random.default_rng(seed)

    def normal(scale: float, *shape: int) -> np.ndarray:
        return rng.normal(scale=scale, size=shape)

    return make_neutral_params().replace(
        betas=normal(0.8, 10),
        expression=normal(0.5, 10),
        global_orient=np.array([np.pi, 0, 0]) + normal(0.2, 3),
        body_pose=normal(0.25, 21, 3),
        jaw_pose=normal(0.1, 3),
        left_hand_pose=normal(0.3, 15, 3),
        right_hand_pose=normal(0.3, 15, 3),
    )


@dataclass(frozen=True)
class Crop:
    """A detector's square box and the network's weak perspective in it (s, tx, ty)."""

    center_px: tuple[float, float]
    side_px: float
    cam: tuple[float, float, float]


def matrices(body: SmplBody) -> dict[str, np.ndarray]:
    return {
        "global_orient": axis_angle_to_matrix(body.global_orient[None]).astype(np.float32),
        "body_pose": axis_angle_to_matrix(body.body_pose).astype(np.float32),
        "betas": body.betas.astype(np.float32),
    }


def champ_dict(smpl: SmplModel, people: list[tuple[SmplBody, Crop]], size_px: tuple[int, int]):
    """As Champ's predict_smpl: what it renders, and the pixels it renders the joints at."""
    width, height = size_px
    focal = 5000.0 / 256 * max(size_px)
    records = [matrices(body) for body, _ in people]
    verts, shifts, pixels = [], [], []
    for body, crop in people:
        (cx, cy), b = crop.center_px, crop.side_px
        s, tx, ty = crop.cam
        bs = b * s + 1e-9
        shift = np.array(
            [2 * (cx - width / 2) / bs + tx, 2 * (cy - height / 2) / bs + ty, 2 * focal / bs]
        )
        mesh, joints = forward_smpl(smpl, body)
        verts.append(mesh)
        shifts.append(shift.astype(np.float32))
        seen = joints + shift
        pixels.append(focal * seen[:, :2] / seen[:, 2:] + [width / 2, height / 2])
    saved = {
        "verts": verts,
        "cam_t": shifts,
        "render_res": np.array([width, height], np.float32),
        "smpls": {
            "global_orient": np.stack([r["global_orient"] for r in records]),
            "body_pose": np.stack([r["body_pose"] for r in records]),
            "betas": np.stack([r["betas"] for r in records]),
        },
        "scaled_focal_length": np.array(focal, np.float32),
    }
    return saved, pixels


def phalp_track(smpl: SmplModel, body: SmplBody, crop: Crop, size_px: tuple[int, int]):
    """As PHALP's get_human_features: one detection, and its joints' pixels in the photo."""
    width, height = size_px
    side = max(size_px)
    left, top = (side - width) // 2, (side - height) // 2
    ratio = 256 / side
    s, tx, ty = crop.cam
    depth = 2 * 5000 / (s * crop.side_px * ratio + 1e-9)
    center = (np.array(crop.center_px) + [left, top]) * ratio
    camera = np.array([tx, ty, depth]) + [*((center - 128) * depth / 5000), 0]
    _, joints = forward_smpl(smpl, body)
    seen = joints + camera
    in_square = (5000 / 256 * seen[:, :2] / seen[:, 2:] + 0.5) * 256
    points = np.zeros((45, 3), np.float32)
    points[8] = joints[0]
    box = np.array(
        [crop.center_px[0] - 20, crop.center_px[1] - 30, 0.4 * crop.side_px, crop.side_px]
    )
    track = {
        "bbox": box,
        "conf": np.float32(0.9),
        "size": [height, width],
        "camera": camera.astype(np.float32),
        "smpl": matrices(body),
        "3d_joints": points,
        "mask": [{"size": [height, width], "counts": "abc"}],
        "class_name": np.int64(0),
    }
    return track, in_square / ratio - [left, top]


def phalp_frame(path: str, tracks: list[tuple[dict, int]]) -> dict:
    frame = {"time": 0, "shot": 0, "frame_path": path}
    for name in tracks[0][0]:
        frame[name] = [track[name] for track, _ in tracks]
    frame["tid"] = list(range(1, len(tracks) + 1))
    frame["tracked_time"] = [time for _, time in tracks]
    return frame


def save_dict(path: Path, record: dict) -> None:
    """As np.save(path, dict), which wraps it in an array of one object."""
    array: Any = record
    np.save(path, array, allow_pickle=True)


def save_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def dump_phalp(path: Path, frames: dict) -> None:
    joblib.dump(frames, path, compress=3)


def write_smplerx(
    out: Path, name: str, photo: str, params: BodyParams, mean: np.ndarray, box, focal, princpt
):
    """As SMPLer-X's inference.py, whose hand poses start from the relaxed hand."""
    p = params.as_dict()
    arrays = {
        "global_orient": p["global_orient"].reshape(-1, 3),
        "body_pose": p["body_pose"],
        "left_hand_pose": p["left_hand_pose"] - mean[0].reshape(15, 3),
        "right_hand_pose": p["right_hand_pose"] - mean[1].reshape(15, 3),
        "jaw_pose": p["jaw_pose"].reshape(-1, 3),
        "leye_pose": np.zeros((1, 3)),
        "reye_pose": np.zeros((1, 3)),
        "betas": p["betas"].reshape(-1, 10),
        "expression": p["expression"].reshape(-1, 10),
        "transl": p["transl"].reshape(-1, 3),
    }
    for folder in ("smplx", "meta"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    np.savez(out / "smplx" / f"{name}.npz", **arrays)
    meta = {
        "focal": list(focal),
        "princpt": list(princpt),
        "bbox": list(box),
        "bbox_mmdet": list(box),
    }
    meta |= {"bbox_id": 0, "img_path": photo}
    (out / "meta" / f"{name}.json").write_text(json.dumps(meta, indent=4))


def multihmr_person(
    params: BodyParams, pelvis: np.ndarray, score: float, side_px: int
) -> tuple[dict, np.ndarray]:
    """As Multi-HMR's Model.forward on a square of side_px; and the joints in camera axes."""
    model = free_body()
    _, joints = forward(model, params.replace(transl=np.zeros(3)))
    joints = joints - joints[0] + pelvis
    focal = side_px / (2 * np.tan(np.radians(60) / 2))
    pixels = focal * joints[:, :2] / joints[:, 2:] + side_px // 2
    pose = params.get_full_pose()
    person = {
        "scores": np.array(score, np.float32),
        "transl": joints[15].astype(np.float32),
        "transl_pelvis": joints[:1].astype(np.float32),
        "rotvec": np.concatenate([pose[:22], pose[25:], pose[22:23]]),
        "expression": params.expression,
        "shape": params.betas,
        "j3d_smplx": joints.astype(np.float32),
        "j2d_smplx": pixels.astype(np.float32),
    }
    return person, joints


def imported_pixels(body: BodyParams | SmplBody, camera: Camera) -> np.ndarray:
    assert isinstance(body, BodyParams)
    return camera.project(forward(free_body(), body)[1])[0]


def moved(body: SmplBody, transl) -> SmplBody:
    return replace(body, transl=np.asarray(transl, np.float64))
