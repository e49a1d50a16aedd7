"""EasyMocap: smpl/FRAME.json or smplx/FRAME.json, lists of people, with intri.yml and extri.yml.

A person has `Rh` (3) and `Th` (3), `poses` (72 for SMPL; 87 for SMPL-X: 22 body joints, six
principal components for either hand from the relaxed hand, jaw and eyes; 165 likewise without
components), `shapes` (10), `expression` (10). A vertex is at R(Rh) v(poses) + Th: `Rh` turns about
the origin of the model, not about the pelvis. Camera: K, R or Rot and T of the view in OpenCV's
YAML, x_cam = R x + T; a calibration with several views needs a raw folder named as the view.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    find_files,
    find_largest,
    get_field,
    index_by_stem,
    make_pinhole_camera,
    parse_numbers,
    parse_rotations,
)
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.body.smpl_to_smplx import MEAN_REST_PELVIS_M
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json

SMPL_SIZES, SMPLX_SIZES = (69, 72), (87, 165)
_MATRIX = re.compile(r"^(\w+):\s*!!opencv-matrix\s+rows:\s*\d+.*?data:\s*\[(.*?)\]", re.M | re.S)


class EasyMocapImporter:
    """Importer of the output folder, its smpl/ or smplx/, or a single .json."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        inner = [path / name for name in ("smplx", "smpl") if (path / name).is_dir()]
        self.frames = index_by_stem(find_files(inner[0] if inner else path, ".json"))
        self._camera = _find_camera(path)

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person nearest to the camera."""
        file = self.frames[frame]
        try:
            raw = parse_json(file.read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            raise OmfaError(f"{file}: not JSON: {error}") from None
        people = raw.get("annots", [raw]) if isinstance(raw, Mapping) else raw
        if not isinstance(people, list) or not people:
            raise OmfaError("no person in this frame")
        camera = _make_camera(self._camera, size_px)
        shifts = np.stack([parse_numbers(get_field(p, "Th"), "Th", (3,)) for p in people])
        chosen = find_largest((-camera.to_camera(shifts)[:, 2]).tolist())
        body = self._make_body(people[chosen], camera)
        if isinstance(body, SmplBody):
            # SMPL bodies are in camera axes
            camera = replace(camera, rotation=np.eye(3), translation=np.zeros(3))
        return Estimate(body, camera, people=len(people))

    def _make_body(self, person: Mapping[str, Any], camera: Camera) -> BodyParams | SmplBody:
        poses = parse_numbers(get_field(person, "poses"), "poses").ravel()
        if poses.size not in SMPL_SIZES + SMPLX_SIZES:
            raise OmfaError(
                f"poses: expected 72 numbers (SMPL) or 87 (SMPL-X), got {poses.size};"
                " SMPL-H and MANO are not supported"
            )
        betas = np.zeros(10)
        if "shapes" in person:
            shapes = parse_numbers(person["shapes"], "shapes").ravel()[:10]
            betas[: shapes.size] = shapes
        turn = axis_angle_to_matrix(parse_rotations(get_field(person, "Rh"), "Rh", 1))[0]
        shift = parse_numbers(person["Th"], "Th", (3,))
        if poses.size == 69:
            poses = np.concatenate([np.zeros(3), poses])
        root = turn @ axis_angle_to_matrix(poses[None, :3])[0]
        if poses.size == 72:
            # in camera axes
            pelvis = camera.to_camera((turn @ MEAN_REST_PELVIS_M + shift)[None])[0]
            return SmplBody(
                betas=betas,
                global_orient=matrix_to_axis_angle(camera.rotation @ root),
                body_pose=poses[3:].reshape(23, 3),
                transl=pelvis - MEAN_REST_PELVIS_M,
            )
        return self._make_smplx(person, poses, betas, matrix_to_axis_angle(root), (turn, shift))

    def _make_smplx(
        self,
        person: Mapping[str, Any],
        poses: Float64[np.ndarray, "n"],
        betas: Float64[np.ndarray, "10"],
        orient: Float64[np.ndarray, "3"],
        place: tuple[np.ndarray, np.ndarray],
    ) -> BodyParams:
        if poses.size == 165:
            body, face, left, right = np.split(poses, [66, 75, 120])
        else:
            body, left, right, face = np.split(poses, [66, 72, 78])
        hands = self._reading.hands
        expression = np.zeros(10)
        if "expression" in person:
            numbers = parse_numbers(person["expression"], "expression").ravel()[:10]
            expression[: numbers.size] = numbers
        params = make_neutral_params().replace(
            betas=betas,
            expression=expression,
            global_orient=orient,
            body_pose=body[3:],
            jaw_pose=face[:3],
            leye_pose=face[3:6],
            reye_pose=face[6:],
            # a pose of full size is used as it is
            left_hand_pose=hands.to_flat_hand(left, 0, from_mean=poses.size == 87),
            right_hand_pose=hands.to_flat_hand(right, 1, from_mean=poses.size == 87),
        )
        model, (turn, shift) = self._reading.model, place
        coefficients = np.concatenate([params.betas, params.expression])
        rest = model.joint_template[0] + model.joint_dirs[0] @ coefficients
        return params.replace(transl=turn @ rest + shift - rest)


def _find_camera(path: Path) -> dict[str, np.ndarray]:
    """Return K, R (axis-angle or matrix) and T of the only view in the nearest calibration."""
    for folder in (path, *path.absolute().parents[:3]):
        intri, extri = folder / "intri.yml", folder / "extri.yml"
        if not intri.is_file():
            continue
        found = _read_matrices(intri) | (_read_matrices(extri) if extri.is_file() else {})
        views = sorted(name[2:] for name in found if name.startswith("K_"))
        if len(views) != 1:
            raise OmfaError(
                f"{intri}: expected one view, found {len(views)}; leave the view of the photos in"
                " intri.yml and extri.yml, in the folder of --in"
            )
        view = views[0]
        rotation = found.get(f"Rot_{view}", found.get(f"R_{view}", np.zeros(3)))
        return {"K": found[f"K_{view}"], "R": rotation, "T": found.get(f"T_{view}", np.zeros(3))}
    raise OmfaError(
        f"no camera: expected EasyMocap's intri.yml and extri.yml in {path} or above it"
    )


def _read_matrices(file: Path) -> dict[str, np.ndarray]:
    text = file.read_text("utf-8", "replace")
    return {
        name: parse_numbers([word for word in re.split(r"[\s,]+", data) if word], name)
        for name, data in _MATRIX.findall(text)
    }


def _make_camera(view: Mapping[str, np.ndarray], size_px: tuple[int, int]) -> Camera:
    matrix = parse_numbers(view["K"], "K", (3, 3))
    camera = make_pinhole_camera(np.diag(matrix)[:2], matrix[:2, 2], size_px)
    rotation = axis_angle_to_matrix(parse_rotations(view["R"], "R", 1))[0]
    return replace(camera, rotation=rotation, translation=parse_numbers(view["T"], "T", (3,)))
