"""Meshes around the free body: visible skin, top with sheet coordinates, trousers, hair."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.smplx_joints import JOINTS
from omfa_jax.body.vertex_normals import compute_vertex_normals
from omfa_jax.synthetic import garment_sheet, hair
from omfa_jax.synthetic.raster_kernels import EYE, HAIR, SHIRT, SKIN, TROUSERS

# CIHP label ids, as in VITON-HD's image-parse-v3
CIHP = {"background": 0, "hair": 2, "upper": 5, "trousers": 9, "neck": 10, "face": 13}
CIHP |= {"left_arm": 14, "right_arm": 15}

SHIRT_ROUNDS, SHIRT_GAP_M = 60, 0.011
TROUSERS_ROUNDS, TROUSERS_GAP_M = 20, 0.006


@dataclass(frozen=True, eq=False)
class MeshPart:
    """A mesh whose vertex i is skinned like body vertex `base[i]`; rest pose, metres.

    `attributes`: of skin, eyes, trousers and hair the position (x, y, z, 0, 0, 0), on which their
    colours depend; of the shirt (torso x as a share of the sheet's half width, torso y, depth in
    front of the side fold, distance beyond the shoulder seam, sleeve t in [0, 1], 0).
    `labels`: CIHP ids. `loose`: offset for a loose fit. `styles`: hair styles that show the part.
    """

    base: Int32[np.ndarray, "n"]
    rest: Float[np.ndarray, "n 3"]
    attributes: Float[np.ndarray, "n 6"]
    faces: Int32[np.ndarray, "f 3"]
    material: int
    labels: Int32[np.ndarray, "n"]
    loose: Float[np.ndarray, "n 3"]
    styles: tuple[str, ...] = tuple(hair.STYLES)


def build_parts(model: BodyModel) -> list[MeshPart]:
    """Return all parts for the free body; the thresholds are measured on it."""
    return [*_body_parts(model), _shirt(model), _trousers(model), *_hair_parts(model)]


def find_landmarks(model: BodyModel) -> dict[str, int]:
    """Return the indices of the body's vertices at the tip of the nose, the ears and the crown."""
    x, y, z = model.v_template.T
    head = (y > 0.3) & (np.abs(x) < 0.12)
    ear = np.where(head & (y > 0.33) & (y < 0.42), x, 0)
    return {
        "nose": int(np.where(head, z, -1).argmax()),
        "left_ear": int(ear.argmax()),
        "right_ear": int(ear.argmin()),
        "crown": int(y.argmax()),
    }


def _share(model: BodyModel, *words: str) -> Float32[np.ndarray, "v"]:
    """Return the share of each vertex's skinning weight on joints whose name contains a word."""
    columns = [i for i, joint in enumerate(JOINTS) if any(word in joint for word in words)]
    return model.weights[:, columns].sum(axis=1)


def _cut_out(
    model: BodyModel, inside: Bool[np.ndarray, "v"]
) -> tuple[Int32[np.ndarray, "n"], Int32[np.ndarray, "f 3"]]:
    """Return the vertices and renumbered faces of the region with `inside` true at all corners."""
    faces = model.faces[inside[model.faces].all(axis=1)]
    used, local = np.unique(faces, return_inverse=True)
    return used.astype(np.int32), local.reshape(-1, 3).astype(np.int32)


def _attributes(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 6"]:
    return np.concatenate([points, np.zeros_like(points)], axis=1)


def _body_parts(model: BodyModel) -> list[MeshPart]:
    """Return the skin that clothes may leave visible, without the mouth, and the eyeballs."""
    x, y, z = model.v_template.T
    eyes = _share(model, "_eye") > 0.5
    mouth = (np.abs(x) < 0.0245) & (y > 0.294) & (y < 0.325) & (z < 0.1455) & (z > 0.07)
    covered = (y < 0.05) & (np.abs(x) < 0.2) & (_share(model, "elbow", "wrist") < 0.02)
    skin = ~eyes & ~mouth & ~covered & (y > -0.2)
    labels = _skin_labels(model)
    parts = []
    for inside, material in ((skin, SKIN), (eyes, EYE)):
        base, faces = _cut_out(model, inside)
        points = model.v_template[base]
        still = np.zeros_like(points)
        parts.append(
            MeshPart(base, points, _attributes(points), faces, material, labels[base], still)
        )
    return parts


def _skin_labels(model: BodyModel) -> Int32[np.ndarray, "v"]:
    """Return the CIHP ids of skin: face, neck and chest, left and right arm."""
    x, y, z = model.v_template.T
    head = _share(model, "head", "jaw", "_eye") > 0.5
    jaw_y = np.interp(z, (0.0, 0.06, 0.15), (0.345, 0.315, 0.272))
    labels = np.where(head & (y > jaw_y), CIHP["face"], CIHP["neck"])
    arm = (_share(model, "shoulder", "elbow", "wrist") > 0.5) | (np.abs(x) > 0.7)
    return np.where(arm, np.where(x > 0, CIHP["left_arm"], CIHP["right_arm"]), labels)


class _Smoother:
    """Laplacian smoothing of a mesh: moves points half way to the mean of their neighbours."""

    def __init__(self, faces: Int32[np.ndarray, "f 3"], count: int) -> None:
        self._start = np.concatenate([faces.ravel(), faces[:, [1, 2, 0]].ravel()])
        self._end = np.concatenate([faces[:, [1, 2, 0]].ravel(), faces.ravel()])
        neighbours = np.bincount(self._start, minlength=count)
        self._share = (0.5 / np.maximum(neighbours, 1))[:, None]

    def __call__(self, points: Float[np.ndarray, "n 3"], rounds: int) -> Float[np.ndarray, "n 3"]:
        for _ in range(rounds):
            moved = [np.bincount(self._start, p[self._end], len(p)) for p in points.T]
            points = 0.5 * points + self._share * np.stack(moved, axis=1)
        return points


def _is_border(faces: Int32[np.ndarray, "f 3"], count: int) -> Bool[np.ndarray, "n"]:
    """Return the mask of border vertices: those with an edge that belongs to a single face."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    kinds, times = np.unique(edges[:, 0].astype(np.int64) * count + edges[:, 1], return_counts=True)
    border = np.zeros(count, bool)
    border[np.concatenate([kinds[times == 1] // count, kinds[times == 1] % count])] = True
    return border


def _shell(
    model: BodyModel, inside: Bool[np.ndarray, "v"], rounds: int, gap_m: float
) -> tuple[Int32[np.ndarray, "n"], Int32[np.ndarray, "f 3"], Float[np.ndarray, "n 3"]]:
    """Return a smooth shell over a body region, at least `gap_m` outside, which bridges hollows."""
    base, faces = _cut_out(model, inside)
    points = model.v_template[base].astype(np.float64)
    smoothed = _Smoother(faces, len(points))
    # normals of the smoothed mesh: the body's own converge in hollows such as the navel
    outward = compute_vertex_normals(smoothed(points, 8), faces)
    border = _is_border(faces, len(points))
    rim = (points + gap_m * outward)[border]

    shell = points + gap_m * outward
    for _ in range(rounds):
        shell = smoothed(shell, 1)
        short = gap_m - np.einsum("vi,vi->v", shell - points, outward)
        shell += np.maximum(short, 0)[:, None] * outward
        # smoothing would shrink the open border
        shell[border] = rim
    return base, faces, shell


def _shirt(model: BodyModel) -> MeshPart:
    x, y, _ = model.v_template.T
    torso = ("pelvis", "spine", "neck", "collar", "shoulder", "elbow", "hip")
    inside = (_share(model, *torso) > 0.9) & (y > -0.47) & (y < 0.33) & (np.abs(x) < 0.74)
    inside |= (_share(model, "elbow", "wrist") > 0.5) & (np.abs(x) < 0.725)
    base, faces, shell = _shell(model, inside, SHIRT_ROUNDS, SHIRT_GAP_M)
    outward = compute_vertex_normals(shell, faces)
    below = np.clip((0.05 - shell[:, 1]) / 0.3, 0, 1) * (np.abs(shell[:, 0]) < 0.22)
    sleeve = np.clip((np.abs(shell[:, 0]) - 0.22) / 0.08, 0, 1)
    loose = outward * (0.03 * below + 0.013 * sleeve)[:, None]
    shell = shell + outward * (0.012 * below + 0.006 * sleeve)[:, None]
    labels = np.full(len(base), CIHP["upper"], np.int32)
    return MeshPart(base, shell, _sheet_coordinates(shell), faces, SHIRT, labels, loose)


def _sheet_coordinates(shell: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 6"]:
    """Return the sheet coordinates of the top's vertices, see `MeshPart` for the columns."""
    x, y, z = shell.T
    torso = np.abs(x) < 0.24
    levels = np.arange(max(y.min(), -0.48), y[torso].max(), 0.02)
    slices = [torso & (np.abs(y - level) < 0.035) for level in levels]
    sizes = np.array([(np.abs(x[s]).max(), z[s].max(), z[s].min()) for s in slices])
    sizes = [np.convolve(np.pad(c, 2, mode="edge"), np.full(5, 0.2), "valid") for c in sizes.T]
    wide, front, back = (np.interp(y, levels, column) for column in sizes)
    depth, middle = np.maximum((front - back) / 2, 0.03), (front + back) / 2
    angle = np.arctan2(np.abs(x) / np.maximum(wide, 0.05), np.abs(z - middle) / depth)
    # the section is an ellipse: arc length from the centre line to the point, and to the side fold
    grid = np.linspace(0, np.pi / 2, 65)
    speed = np.hypot(wide[:, None] * np.cos(grid), depth[:, None] * np.sin(grid))
    length = (np.cumsum(speed, axis=1) - speed / 2) * grid[1]
    arc = np.array([np.interp(a, grid, row) for a, row in zip(angle, length, strict=True)])
    half_width = np.array([garment_sheet.compute_half_width(level) for level in y])
    # above the armpits the chest is flat, without sides
    flat = np.clip((y + 0.03) / 0.11, 0, 1)
    across = (1 - flat) * _stretched(arc, length[:, -1], half_width)
    across += flat * _stretched(np.abs(x), np.full(len(x), garment_sheet.SEAM_X), half_width)
    across /= half_width
    arm_y, arm_z = np.interp(np.abs(x), (0.2, 0.3, 0.7), (0.12, 0.122, 0.12)), 0.016
    around = np.arctan2(np.abs(z - arm_z), y - arm_y) / np.pi
    facing = np.where(np.abs(x) > 0.22, z - arm_z, z - np.where(y > 0.05, 0.015, middle))
    beyond = np.where(y > -0.02, np.abs(x), np.minimum(np.abs(x), 0.15)) - garment_sheet.SEAM_X
    columns = (np.sign(x) * across, y, facing, beyond, around, np.zeros_like(x))
    return np.stack(columns, axis=1)


def _stretched(
    distance: Float[np.ndarray, "n"],
    end: Float[np.ndarray, "n"],
    wanted_end: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n"]:
    """Return the distances, stretched so that `end` maps to `wanted_end`, with scale 1 at 0.

    Prints are at the centre and must keep their shape, so the sides absorb the difference.
    """
    return distance + (wanted_end - end) * (distance / end) ** 3


def _trousers(model: BodyModel) -> MeshPart:
    y = model.v_template[:, 1]
    inside = (_share(model, "pelvis", "spine1", "spine2", "hip", "knee") > 0.9) & (y < -0.13)
    inside &= y > -0.95
    base, faces, shell = _shell(model, inside, TROUSERS_ROUNDS, TROUSERS_GAP_M)
    labels = np.full(len(base), CIHP["trousers"], np.int32)
    attributes, still = _attributes(model.v_template[base]), np.zeros_like(shell)
    return MeshPart(base, shell, attributes, faces, TROUSERS, labels, still)


def _hair_parts(model: BodyModel) -> list[MeshPart]:
    x, y, z = model.v_template.T
    ears = (np.abs(x) > 0.07) & (y < 0.412) & (z < 0.075)
    head = np.flatnonzero((_share(model, "head", "jaw") > 0.5) & ~ears & (y > 0.28))[::2]
    skull = model.v_template[head].astype(np.float64)
    reach = hair.measure_skull(skull)
    parts = []
    for name, style in hair.STYLES.items():
        points, faces = hair.grow_hair(style, reach)
        # |p - s|^2 without |p|^2, which does not change the nearest s
        nearest = ((skull**2).sum(axis=1) - 2 * points @ skull.T).argmin(axis=1)
        base, still = head[nearest].astype(np.int32), np.zeros_like(points)
        labels = np.full(len(points), CIHP["hair"], np.int32)
        parts.append(
            MeshPart(base, points, _attributes(points), faces, HAIR, labels, still, styles=(name,))
        )
    return parts
