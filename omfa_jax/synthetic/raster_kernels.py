"""Numba kernels of geometry: skinning, projection, normals, and a z-buffer that trims garments."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from omfa_jax.synthetic.garment_sheet import (
    COLLAR_Y,
    HEM_Y,
    NECK_DEPTH,
    SLEEVE_M,
    compute_half_width,
    compute_neck_distance,
)
from omfa_jax.synthetic.numba_kernels import compute_pixel_range, compute_signed_area, kernel

SKIN, EYE, HAIR, SHIRT, TROUSERS = range(5)

TROUSERS_TOP_Y = -0.17
# cloth is drawn 0.2% nearer, which hides skin that skinning pushes through it
CLOTH_BIAS = 1.002


class Skinning(NamedTuple):
    """What linear blend skinning needs of a mesh; numba unpacks it at no cost."""

    rest: Float32[np.ndarray, "v 3"]
    loose: Float32[np.ndarray, "v 3"]
    shape_dirs: Float32[np.ndarray, "v 3 10"]
    bones: Int32[np.ndarray, "v 6"]
    bone_weights: Float32[np.ndarray, "v 6"]


@kernel
def skin_vertices(mesh, fit, betas, transforms, posed) -> None:
    """Write linear blend skinning of rest + fit * loose + shape_dirs @ betas into `posed`."""
    rest, loose, shape_dirs, bones, bone_weights = mesh
    for v in range(rest.shape[0]):
        x = rest[v, 0] + fit * loose[v, 0]
        y = rest[v, 1] + fit * loose[v, 1]
        z = rest[v, 2] + fit * loose[v, 2]
        for k in range(betas.shape[0]):
            x += shape_dirs[v, 0, k] * betas[k]
            y += shape_dirs[v, 1, k] * betas[k]
            z += shape_dirs[v, 2, k] * betas[k]
        px = py = pz = np.float32(0)
        for k in range(bones.shape[1]):
            w = bone_weights[v, k]
            # weights are sorted in descending order
            if w < 1e-5:
                break
            m = transforms[bones[v, k]]
            px += w * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
            py += w * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
            pz += w * (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
        posed[v, 0], posed[v, 1], posed[v, 2] = px, py, pz


@kernel
def project_vertices(vertices, rotation, translation, focal, center, screen) -> None:
    """Write (x px, y px, 1/depth) of world points, all in front of the camera, into `screen`."""
    for v in range(vertices.shape[0]):
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        inverse = 1.0 / (
            rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        )
        for k in range(2):
            along = rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z + translation[k]
            screen[v, k] = along * inverse * focal[k] + center[k]
        screen[v, 2] = inverse


@kernel
def compute_normals(vertices, faces, out) -> None:
    """Write area-weighted unit vertex normals into `out`; zeros for unused vertices."""
    out[:] = 0
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (
            vertices[b, 0] - vertices[a, 0],
            vertices[b, 1] - vertices[a, 1],
            vertices[b, 2] - vertices[a, 2],
        )
        wx, wy, wz = (
            vertices[c, 0] - vertices[a, 0],
            vertices[c, 1] - vertices[a, 1],
            vertices[c, 2] - vertices[a, 2],
        )
        x, y, z = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for v in (a, b, c):
            out[v, 0] += x
            out[v, 1] += y
            out[v, 2] += z
    for v in range(out.shape[0]):
        # 1e-20: vertices without a face have normal 0
        length = np.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2) + np.float32(1e-20)
        for k in range(3):
            out[v, k] /= length


@kernel
def interpolate(attributes, corners, weights, column):
    """Return one attribute at a point of a triangle, interpolated by barycentric weights."""
    a, b, c = corners
    wa, wb, wc = weights
    return wa * attributes[a, column] + wb * attributes[b, column] + wc * attributes[c, column]


@kernel
def is_cut_off(material, attributes, corners, weights, cut) -> bool:
    """Return whether a point of a triangle is outside of the garment's (or trousers') cut."""
    y = interpolate(attributes, corners, weights, 1)
    if material == TROUSERS:
        return y > TROUSERS_TOP_Y
    if material != SHIRT:
        return False
    beyond = interpolate(attributes, corners, weights, 3)
    if beyond > cut[SLEEVE_M]:
        return True
    if beyond > 0.0:
        return False
    if y < cut[HEM_Y]:
        return True
    if y < COLLAR_Y - cut[NECK_DEPTH]:
        return False
    x = interpolate(attributes, corners, weights, 0) * compute_half_width(y)
    front = interpolate(attributes, corners, weights, 2) > 0.0
    return compute_neck_distance(x, y, front, cut) < 0.0


WHOLE, CROSSED, GONE = range(3)


@kernel
def classify_triangle(material, attributes, a, b, c, cut) -> int:
    """Return whether a triangle is WHOLE, GONE, or CROSSED by the cut, to be tested per pixel."""
    low = min(attributes[a, 1], attributes[b, 1], attributes[c, 1])
    high = max(attributes[a, 1], attributes[b, 1], attributes[c, 1])
    if material == TROUSERS:
        return GONE if low > TROUSERS_TOP_Y else (CROSSED if high > TROUSERS_TOP_Y else WHOLE)
    if material != SHIRT:
        return WHOLE
    nearest = min(attributes[a, 3], attributes[b, 3], attributes[c, 3])
    farthest = max(attributes[a, 3], attributes[b, 3], attributes[c, 3])
    if nearest > cut[SLEEVE_M]:
        return GONE
    clear_of_neck = high < COLLAR_Y - cut[NECK_DEPTH] or nearest > 0.0
    return WHOLE if farthest < cut[SLEEVE_M] and low > cut[HEM_Y] and clear_of_neck else CROSSED


@kernel
def rasterize(screen, faces, materials, attributes, cut, inverse_depth, triangle, weights) -> None:
    """Rasterize the scene into 1/depth, triangle id (-1: none) and two barycentric weights.

    `screen`: (x px, y px, 1/depth) of each vertex. Cloth and hair are visible from both sides.
    """
    height, width = triangle.shape
    inverse_depth[:] = 0
    triangle[:] = -1
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bz = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cz = screen[c, 0], screen[c, 1], screen[c, 2]
        material = materials[f]
        area = compute_signed_area(ax, ay, bx, by, cx, cy)
        # back faces of skin and eyes are culled
        if area == 0.0 or (area > 0.0 and material in (SKIN, EYE)):
            continue
        state = classify_triangle(material, attributes, a, b, c, cut)
        if state == GONE:
            continue
        left, right = compute_pixel_range(ax, bx, cx, width)
        top, bottom = compute_pixel_range(ay, by, cy, height)
        scale = np.float32(1.0) / area
        # np.float32 constants: a Python float would promote the loop to float64
        bias = np.float32(CLOTH_BIAS) if material == SHIRT else np.float32(1.0)
        for y in range(top, bottom + 1):
            py = np.float32(y + 0.5)
            for x in range(left, right + 1):
                px = np.float32(x + 0.5)
                wa = ((bx - px) * (cy - py) - (cx - px) * (by - py)) * scale
                wb = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) * scale
                wc = np.float32(1.0) - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                near = wa * az + wb * bz + wc * cz
                if near * bias <= inverse_depth[y, x]:
                    continue
                # perspective-correct weights: those on the screen are linear in 1/depth
                qa, qb = wa * az / near, wb * bz / near
                qc = np.float32(1.0) - qa - qb
                inside = (qa, qb, qc)
                if state == CROSSED and is_cut_off(material, attributes, (a, b, c), inside, cut):
                    continue
                inverse_depth[y, x] = near * bias
                triangle[y, x] = f
                weights[y, x, 0], weights[y, x, 1] = qa, qb
