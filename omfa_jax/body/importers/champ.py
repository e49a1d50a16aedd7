"""4D-Humans estimates: HMR2's output, or as saved by Champ: a file per photo, or one of a video.

The .npy is a dict of `smpls` {global_orient (n,1,3,3), body_pose (n,23,3,3), betas (n,10)},
`cam_t` (n of 3), `verts` (n of (6890, 3)), `render_res` (w, h) and `scaled_focal_length`; the
group .npz has the first person's `camera` (f, 3) and the `smpl` dicts (f), and no names. Camera: a
point X of the model is at x = X + cam_t, OpenCV axes, with the principal point at the centre of the
photo and a focal length of 5000 / 256 px per pixel of the longer side. HMR2's own `out` has
`pred_cam` (n, 3) and `pred_smpl_params` instead; `cam_t` is computed with the batch's `box_center`
and `box_size`, or was saved as `pred_cam_t_full`. Without either, the crop is taken to be the whole
photo. The size is the photo's where the file has none.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

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
    parse_rows,
    resize_to_photo,
)
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import READ_SUFFIXES

log = logging.getLogger(__name__)

FOCAL_PX = 5000.0
CROP_PX = 256
GROUP_KEYS, GROUP_FILE = {"smpl", "camera"}, "smpls_group.npz"
SIZE_KEYS = ("render_res", "img_size")


class ChampImporter:
    """Importer of a folder of .npy files, a single one, or a group .npz."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._allow_pickle = reading.allow_pickle
        self._warned = False
        folder = path / "smpl_results"
        # Champ's output folder and the results folder in it are both accepted
        path = folder if path.is_dir() and folder.is_dir() else path
        self.frames: dict[str, Any]
        raw = self._load(path) if path.is_file() and path.suffix == ".npz" else None
        if isinstance(raw, dict) and (raw.keys() >= GROUP_KEYS or path.name == GROUP_FILE):
            self.frames = self._group(path, raw)
        else:
            self.frames = dict(index_by_stem(_list_files(path)))

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person with the largest box around the mesh; without meshes the nearest.

        For a group file it is the first person, the only one with a camera.
        """
        entry = self.frames[frame]
        if isinstance(entry, tuple):
            smpl, transl = entry
            # a group file states no size: its frames are taken to have the photo's
            focal_px = FOCAL_PX / CROP_PX * max(size_px)
            camera = make_pinhole_camera(np.full(2, focal_px), np.array(size_px) / 2, size_px)
            return Estimate(_make_body(smpl, 0, transl), camera, _count_people(smpl))
        raw = self._load(entry)
        if _is_whole_photo(raw) and not self._warned:
            self._warned = True
            log.warning(
                "%s: no box_center and box_size of the crop: it is taken to be the whole photo;"
                " save those of HMR2's batch, or pred_cam_t_full",
                entry.name,
            )
        return _parse_dict(raw, size_px)

    def _load(self, path: Path) -> Any:
        return read_pickle(path, "body file", allow_pickle=self._allow_pickle)

    def _group(self, path: Path, raw: dict[str, Any]) -> dict[str, Any]:
        if not raw.keys() >= GROUP_KEYS:
            found = ", ".join(raw)
            raise OmfaError(f"body file {path}: expected the keys smpl and camera, found {found}")
        people, cameras = list(raw["smpl"]), list(raw["camera"])
        # a photo gets its body by name, and the group file has none
        names = _find_names(path, len(people))
        if len(cameras) != len(people):
            raise OmfaError(
                f"body file {path}: {len(people)} bodies but {len(cameras)} cameras; export again"
            )
        return dict(zip(names, zip(people, cameras, strict=True), strict=True))


def convert_crop_to_photo(
    pred_cam: Float[np.ndarray, "3"],
    box_center_px: Float[np.ndarray, "2"],
    box_size_px: float,
    size_px: tuple[int, int],
    focal_px: float,
) -> Float64[np.ndarray, "3"]:
    """Return the translation (metres) in the photo's camera of a crop's weak perspective (s, x, y).

    A square crop of side b px shows the person at depth 2 f / (b s). The offset of the crop's
    centre from the photo's is applied at that depth. Source: 4D-Humans, cam_crop_to_full.
    """
    scale, x, y = parse_numbers(pred_cam, "pred_cam", (3,))
    if scale <= 0:
        raise OmfaError(f"pred_cam: expected a positive scale, got {scale:.3g}")
    width = float(box_size_px) * scale
    offset = parse_numbers(box_center_px, "box_center", (2,)) - np.array(size_px) / 2
    return np.array([*(np.array([x, y]) + 2 * offset / width), 2 * focal_px / width])


def _parse_dict(raw: Any, size_px: tuple[int, int]) -> Estimate:
    # some save the parameters without their dict
    flat = isinstance(raw, Mapping) and "global_orient" in raw
    smpl = raw if flat else get_field(raw, "smpls", "pred_smpl_params")
    own_px = size_px
    if any(name in raw for name in SIZE_KEYS):
        width, height = parse_rows(get_field(raw, *SIZE_KEYS), "render_res", 2)[0]
        # the size that the network saw, of which the photo may be a scaled copy
        own_px = (round(width), round(height))
    focal_px = FOCAL_PX / CROP_PX * max(own_px)
    if "scaled_focal_length" in raw:
        focal_px = float(parse_rows(raw["scaled_focal_length"], "scaled_focal_length", 1)[0, 0])
    placed = next((name for name in ("cam_t", "pred_cam_t_full") if name in raw), None)
    if placed is None and "pred_cam" not in raw and "pred_cam_t" in raw:
        # the crop's own camera is that of the photo if the crop is all of it
        placed = "pred_cam_t"
    if placed is not None:
        shifts = parse_rows(raw[placed], placed, 3)
    else:
        cams = parse_rows(get_field(raw, "cam_t", "pred_cam"), "pred_cam", 3)
        centers = np.tile(np.array(own_px) / 2, (len(cams), 1))
        sizes = np.full(len(cams), max(own_px))
        if not _is_whole_photo(raw):
            centers = parse_rows(get_field(raw, "box_center"), "box_center", 2)
            sizes = parse_numbers(get_field(raw, "box_size"), "box_size").ravel()
        if not len(cams) == len(centers) == len(sizes):
            raise OmfaError("pred_cam, box_center and box_size differ in length")
        crops = zip(cams, centers, sizes, strict=True)
        shifts = np.stack([convert_crop_to_photo(*crop, own_px, focal_px) for crop in crops])
    if not len(shifts) or len(shifts) != _count_people(smpl):
        raise OmfaError(f"{_count_people(smpl)} bodies but {len(shifts)} cameras (cam_t)")
    camera = make_pinhole_camera(np.full(2, focal_px), np.array(own_px) / 2, own_px)
    # without meshes the nearest person counts as the largest
    sizes = [-shift[2] for shift in shifts]
    if "verts" in raw:
        meshes = list(raw["verts"]) if np.iterable(raw["verts"]) else []
        if len(meshes) != len(shifts):
            raise OmfaError(f"{len(shifts)} cameras but {len(meshes)} meshes (verts)")
        sizes = [
            _compute_box_area(camera.project(parse_rows(mesh, "verts", 3) + shift)[0])
            for mesh, shift in zip(meshes, shifts, strict=True)
        ]
    chosen = find_largest(sizes)
    return Estimate(
        _make_body(smpl, chosen, shifts[chosen]),
        resize_to_photo(camera, size_px),
        people=len(shifts),
    )


def _is_whole_photo(raw: Any) -> bool:
    """Whether nothing in the file says where in the photo the crop was."""
    known = {"cam_t", "pred_cam_t_full", "box_center", "box_size"}
    keys = raw.keys() if isinstance(raw, Mapping) else set()
    return bool({"pred_cam", "pred_cam_t"} & keys) and not known & keys


def _list_files(path: Path) -> list[Path]:
    """Return the files of one kind in a folder, of the first kind that it has; or the file."""
    suffixes = (".npy", ".npz", ".pkl")
    if path.is_dir():
        names = [file.suffix for file in path.iterdir() if file.name[0] != "."]
        found = [suffix for suffix in suffixes if suffix in names]
        if len(found) > 1:
            log.warning("%s: reading its %s files, not %s", path, found[0], ", ".join(found[1:]))
        suffixes = tuple(found[:1]) or suffixes
    return find_files(path, *suffixes)


def _count_people(smpl: Any) -> int:
    return len(parse_rows(get_field(smpl, "betas"), "betas", 10))


def _make_body(smpl: Any, index: int, transl: Any) -> SmplBody:
    people = _count_people(smpl)

    def own(name: str, joints: int) -> Float64[np.ndarray, "j 3"]:
        values = parse_numbers(get_field(smpl, name), name)
        if values.size % people:
            raise OmfaError(f"{name}: expected {people} people, got shape {values.shape}")
        return parse_rotations(values.reshape(people, -1)[index], name, joints)

    return SmplBody(
        betas=parse_rows(smpl["betas"], "betas", 10)[index],
        global_orient=own("global_orient", 1)[0],
        body_pose=own("body_pose", 23),
        transl=parse_numbers(transl, "cam_t", (3,)),
    )


def _compute_box_area(pixels: Float[np.ndarray, "n 2"]) -> float:
    # vertices behind the camera have no place in the image
    seen = pixels[np.isfinite(pixels).all(axis=1)]
    return float(np.prod(np.ptp(seen, axis=0))) if len(seen) else 0.0


def _find_names(group: Path, count: int) -> list[str]:
    """Return the frames' names, from the files that Champ writes next to the group file."""
    places = (group.parent, (".npy",)), (group.parent.parent / "images", READ_SUFFIXES)
    for folder, suffixes in places:
        found = folder.iterdir() if folder.is_dir() else ()
        names = [p.stem for p in found if p.suffix.lower() in suffixes and p.name[0] != "."]
        if len(names) == count:
            # Champ processes a video's frames in numerical order
            numbered = all(name.isdecimal() for name in names)
            return sorted(names, key=lambda name: (int(name) if numbered else 0, name))
    raise OmfaError(
        f"body file {group}: its {count} frames have no names; keep it in Champ's smpl_results/"
        f" next to {count} .npy files, or next to images/ with {count} images"
    )
