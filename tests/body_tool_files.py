"""Files of bodies as HMR2, AMASS, SMPLify-X, EasyMocap, ROMP, WHAM, GVHMR and TRAM write them."""

import json
import pickle
from pathlib import Path
from typing import Any

import body_estimates as dumps
import numpy as np

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_to_smplx import SmplConverter

SIZE_PX = (480, 640)
TIGHT_PX = 0.02


def see(smpl, found) -> np.ndarray:
    body = found.body
    if not isinstance(body, BodyParams):
        body = SmplConverter("copy21", dumps.free_body(), smpl)(body)
    return dumps.imported_pixels(body, found.camera)


def project(points: np.ndarray, focal_px: float, size_px=SIZE_PX) -> np.ndarray:
    return focal_px * points[:, :2] / points[:, 2:] + np.array(size_px) / 2


def options(**changes):
    return dumps.replace(dumps.reading(), **changes)


def poses_of(body) -> np.ndarray:
    return np.concatenate([body.global_orient[None], body.body_pose])


def dump(path: Path, record) -> None:
    with path.open("wb") as file:
        pickle.dump(record, file)


def smplifyx_result(params: BodyParams, hands: np.ndarray, shift: np.ndarray) -> dict:
    saved = {name: value.reshape(1, -1) for name, value in params.as_dict().items()}
    del saved["transl"]
    saved |= {"left_hand_pose": hands[:1], "right_hand_pose": hands[1:]}
    return saved | {"camera_rotation": np.eye(3)[None], "camera_translation": shift[None]}


def write_calibration(folder: Path, rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.array([[700.0, 0, 240], [0, 720.0, 300], [0, 0, 1]])
    named = {"intri.yml": {"K_1": matrix}, "extri.yml": {"Rot_1": rotation, "T_1": shift}}
    for name, matrices in named.items():
        text = '%YAML:1.0\r\n---\r\nnames:\r\n  - "1"\r\n'
        for key, value in matrices.items():
            rows, columns = value.reshape(-1, 3 if value.size > 3 else 1).shape
            numbers = ", ".join(f"{number:.9f}" for number in value.ravel())
            text += f"{key}: !!opencv-matrix\r\n  rows: {rows}\r\n  cols: {columns}\r\n"
            text += f"  dt: d\r\n  data: [{numbers}]\r\n"
        (folder / name).write_text(text)
    return matrix


def make_records() -> dict[str, dict[str, Any]]:
    """Return a sound record of one person for each tool that saves a dict of arrays."""
    smpl = dumps.matrices(dumps.some_smpl(1))
    people = {name: np.stack([value, value]) for name, value in smpl.items()}
    params = dumps.some_smplx(1).replace(transl=[0, 0, 5])
    shift, poses = np.array([[0, 0, 5.0]]), poses_of(dumps.some_smpl(1)).reshape(1, 72)
    cams = np.array([[0.8, 0.1, 0.1], [0.7, 0.0, 0.1]])
    incam = {
        name: getattr(params, name).reshape(1, -1)
        for name in ("global_orient", "body_pose", "betas", "transl")
    }
    matrix = np.array([[[700.0, 0, 240], [0, 700, 320], [0, 0, 1]]])
    romp = {"smpl_thetas": poses, "smpl_betas": np.zeros((1, 10)), "cam": cams[:1]}
    bev = romp | {
        "smpl_betas": np.zeros((1, 11)),
        "cam_trans": shift,
        "joints": np.zeros((1, 71, 3)),
    }
    track = {
        "bbox": [[10, 20, 30, 40]],
        "tracked_time": [0],
        "camera": [[0, 0, 50.0]],
        "smpl": [smpl],
        "3d_joints": [np.zeros((45, 3))],
        "size": [[640, 480]],
    }
    return {
        "phalp": track,
        "multihmr": dumps.multihmr_person(params, np.array([0, 0, 4.0]), 0.9, 896)[0],
        "hmr2": {"pred_cam": cams, "pred_smpl_params": people, "pred_cam_t": np.zeros((2, 3))},
        "champ": {
            "smpls": people,
            "cam_t": np.repeat(shift, 2, 0),
            "render_res": np.array(SIZE_PX),
            "scaled_focal_length": np.array(900.0),
        },
        "amass": {
            "poses": params.get_full_pose().reshape(1, 165),
            "trans": shift,
            "betas": np.zeros(16),
            "expressions": np.zeros((1, 100)),
        },
        "smplx": params.as_dict() | {"focal_px": np.array(700.0), "image_size": np.array(SIZE_PX)},
        "smplifyx": smplifyx_result(params, np.zeros((2, 6)), shift[0]),
        "romp": {"results": romp},
        "bev": {"results": bev},
        "wham": {"pose": poses, "trans": shift, "betas": np.zeros((1, 10)), "frame_ids": [0]},
        "gvhmr": {"smpl_params_incam": incam, "K_fullimg": matrix},
        "tram": {
            "pred_rotmat": axis_angle_to_matrix(poses.reshape(-1, 3)).reshape(1, 24, 3, 3),
            "pred_shape": np.zeros((1, 10)),
            "pred_trans": shift[:, None],
            "frame": np.arange(1),
            "img_focal": np.array(700.0),
            "img_center": np.array([240.0, 320.0]),
        },
        "easymocap": {
            "Rh": np.zeros((1, 3)),
            "Th": shift,
            "poses": np.zeros((1, 87)),
            "shapes": np.zeros((1, 10)),
            "expression": np.zeros((1, 10)),
        },
    }


def write_record(folder: Path, tool: str, record: Any) -> Path:
    """Write one photo's record in the tool's kind of file, named a; return --in."""
    if tool == "easymocap":
        write_calibration(folder, np.eye(3), np.zeros(3))
        text = json.dumps([record], default=lambda value: np.asarray(value, object).tolist())
        (folder / "smpl").mkdir()
        (folder / "smpl" / "a.json").write_text(text)
        return folder
    if tool in ("phalp", "multihmr"):
        dump(folder / "a.pkl", {"x/a.jpg": record if tool == "phalp" else [record]})
        return folder / "a.pkl"
    if tool in ("smplifyx", "wham"):
        dump(folder / "a.pkl", record)
        return folder / "a.pkl"
    if tool in ("hmr2", "champ", "tram"):
        dumps.save_dict(folder / "a.npy", record)
        return folder / "a.npy"
    dumps.save_npz(folder / "a.npz", record)
    return folder / "a.npz"
