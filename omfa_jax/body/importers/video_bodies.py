"""Bodies of the frames of a video: WHAM, GVHMR and TRAM, saved as numpy arrays.

- WHAM, wham_output.pkl: {person: {pose (n, 72) and trans (n, 3) in camera axes, betas (n, 10),
  frame_ids (n)}}; SMPL; focal length: the diagonal of the photo; principal point: its centre.
- GVHMR, hmr4d_results.pt saved again as .npz or .pkl: smpl_params_incam {global_orient (n, 3),
  body_pose (n, 63), betas (n, 10), transl (n, 3)} and K_fullimg (n, 3, 3); SMPL-X with relaxed
  hands, in spite of the name.
- TRAM, hps/hps_track_N.npy: {pred_rotmat (n, 24, 3, 3), pred_shape (n, 10), pred_trans (n, 1, 3),
  frame (n)}, and img_focal and img_center in camera.npy in the folder above hps/; SMPL.

All cameras are OpenCV's. Frames are counted from 0.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    choose_frame,
    find_files,
    find_largest,
    get_field,
    make_pinhole_camera,
    parse_numbers,
    parse_rotations,
    parse_rows,
    resize_to_photo,
)
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.core.errors import OmfaError

log = logging.getLogger(__name__)

Size = tuple[int, int]


@dataclass(frozen=True)
class Track:
    """A person's frames: their numbers, positions (n, 3) in camera axes, and a reader by row."""

    numbers: Float64[np.ndarray, "n"]
    shifts: Float64[np.ndarray, "n 3"]
    read: Callable[[int, Size], Estimate]


class VideoImporter(ABC):
    """Importer of one video: a file, or a folder of one person's frames per file."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        hps = path / "hps"
        files = find_files(hps if hps.is_dir() else path, ".npz", ".npy", ".pkl", ".pt")
        self._tracks = [track for file in files for track in self._load(file)]
        counts = {int(number) for track in self._tracks for number in track.numbers}
        if reading.frame is None and len(counts) > 1:
            self.numbered = True
            self.frames: dict[str, int] = {str(number): number for number in sorted(counts)}
            log.info(
                "frame N, counted from 0, belongs to the photo whose name ends in the number N"
            )
            return
        # one frame: the photo has the file's name
        self.numbered = False
        wanted = reading.frame
        if wanted is not None and wanted not in counts:
            choose_frame(max(counts, default=-1) + 1, wanted)
            raise OmfaError(f"frame {wanted} shows nobody; change --frame")
        number = wanted if wanted is not None else min(counts)
        self.frames = {files[0].stem: number}

    def read(self, frame: str, size_px: Size) -> Estimate:
        """Return the person nearest to the camera in the frame."""
        found = [
            (track, int(row))
            for track in self._tracks
            for row in np.flatnonzero(track.numbers == self.frames[frame])
        ]
        chosen = find_largest([-track.shifts[row, 2] for track, row in found])
        track, row = found[chosen]
        estimate = track.read(row, size_px)
        return Estimate(estimate.body, estimate.camera, people=len(found))

    def _load(self, file: Path) -> Iterator[Track]:
        raw = read_pickle(file, "body file", allow_pickle=self._reading.allow_pickle)
        try:
            yield from self._list_tracks(raw, file)
        except OmfaError as error:
            raise OmfaError(f"{file}: {error}") from None

    @abstractmethod
    def _list_tracks(self, raw: Any, file: Path) -> Iterator[Track]:
        """Yield the tracks of one file's content; OmfaError if it is not this tool's."""


class WhamImporter(VideoImporter):
    """Importer of wham_output.pkl."""

    def _list_tracks(self, raw: Any, file: Path) -> Iterator[Track]:
        people = [raw]
        if isinstance(raw, Mapping) and "pose" not in raw:
            people = [person for person in raw.values() if isinstance(person, Mapping)] or [raw]
        for person in people:
            poses = _rows(person, "pose", 72)
            count = len(poses)
            shifts = _rows(person, "trans", 3, count)
            betas = _rows(person, "betas", 10, count)

            def read(row: int, size_px: Size, poses=poses, betas=betas, shifts=shifts) -> Estimate:
                body = _make_smpl(poses[row].reshape(24, 3), betas[row], shifts[row])
                focal_px = np.full(2, np.hypot(*size_px))
                return Estimate(body, _make_centred_camera(focal_px, size_px))

            yield Track(_numbers(person, "frame_ids", count), shifts, read)


class GvhmrImporter(VideoImporter):
    """Importer of hmr4d_results, saved as .npz or .pkl."""

    def _list_tracks(self, raw: Any, file: Path) -> Iterator[Track]:
        flat = isinstance(raw, Mapping) and "global_orient" in raw
        person = raw if flat else get_field(raw, "smpl_params_incam")
        orients = _rows(person, "global_orient", 3)
        count = len(orients)
        poses, betas = _rows(person, "body_pose", 63, count), _rows(person, "betas", 10, count)
        shifts = _rows(person, "transl", 3, count)
        cameras = _rows(raw, "K_fullimg", 9, count).reshape(-1, 3, 3)
        hands = [self._reading.hands.to_flat_hand(np.zeros(45), s, from_mean=True) for s in (0, 1)]

        def read(row: int, size_px: Size) -> Estimate:
            params = make_neutral_params().replace(
                global_orient=orients[row],
                body_pose=poses[row],
                betas=betas[row],
                transl=shifts[row],
                left_hand_pose=hands[0],
                right_hand_pose=hands[1],
            )
            matrix = cameras[row]
            # the principal point is the centre of the video
            width, height = 2 * matrix[:2, 2]
            own_px = (round(width), round(height))
            camera = make_pinhole_camera(np.diag(matrix)[:2], matrix[:2, 2], own_px)
            return Estimate(params, resize_to_photo(camera, size_px))

        yield Track(_numbers(raw, "frame", count), shifts, read)


class TramImporter(VideoImporter):
    """Importer of TRAM's results folder, its hps/, or one track of it."""

    def _list_tracks(self, raw: Any, file: Path) -> Iterator[Track]:
        rotations = _rows(raw, "pred_rotmat", 216).reshape(-1, 24, 9)
        count = len(rotations)
        betas = _rows(raw, "pred_shape", 10, count)
        shifts = _rows(raw, "pred_trans", 3, count)
        camera = raw
        beside = file.parent.parent / "camera.npy"
        if "img_focal" not in raw and beside.is_file():
            camera = read_pickle(beside, "camera", allow_pickle=self._reading.allow_pickle)
        focal_px = _rows(camera, "img_focal", 1)[0]
        center_px = _rows(camera, "img_center", 2)[0]

        def read(row: int, size_px: Size) -> Estimate:
            turns = parse_rotations(rotations[row], "pred_rotmat", 24)
            body = _make_smpl(turns, betas[row], shifts[row])
            own_px = (round(2 * center_px[0]), round(2 * center_px[1]))
            found = make_pinhole_camera(np.resize(focal_px, 2), center_px, own_px)
            return Estimate(body, resize_to_photo(found, size_px))

        yield Track(_numbers(raw, "frame", count), shifts, read)


def _rows(raw: Any, name: str, size: int, count: int | None = None) -> Float64[np.ndarray, "n s"]:
    return parse_rows(get_field(raw, name), name, size, count)


def _numbers(raw: Any, name: str, count: int) -> Float64[np.ndarray, "n"]:
    if name not in raw:
        return np.arange(count, dtype=np.float64)
    return parse_numbers(raw[name], name, (count,))


def _make_smpl(
    turns: Float64[np.ndarray, "24 3"],
    betas: Float64[np.ndarray, "10"],
    transl: Float64[np.ndarray, "3"],
) -> SmplBody:
    return SmplBody(betas, turns[0], turns[1:], transl)


def _make_centred_camera(focal_px: Float64[np.ndarray, "2"], size_px: Size) -> Camera:
    return make_pinhole_camera(focal_px, np.array(size_px) / 2, size_px)
