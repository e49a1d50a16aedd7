"""Numba kernels of appearance: the colour and label of every pixel, and downsampling."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from omfa_jax.synthetic.garment_sheet import (
    SLEEVE_M,
    compute_half_width,
    compute_sleeve_color,
    compute_torso_color,
)
from omfa_jax.synthetic.numba_kernels import compute_signed_area, kernel
from omfa_jax.synthetic.raster_kernels import EYE, HAIR, SKIN, TROUSERS, interpolate

# rows of the palette
SKIN_RGB, EYE_RGB, HAIR_RGB, TROUSERS_RGB, TRIM_RGB = range(5)
MAX_LABEL = 20


class ShadedMesh(NamedTuple):
    """The meshes of a photo: per vertex (v), per face (f)."""

    screen: Float32[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"]
    materials: Int32[np.ndarray, "f"]
    attributes: Float32[np.ndarray, "v 6"]
    normals: Float32[np.ndarray, "v 3"]
    labels: Int32[np.ndarray, "v"]


class Fragments(NamedTuple):
    """What the rasterizer wrote: the triangle of each pixel, and two barycentric weights."""

    triangle: Int32[np.ndarray, "h w"]
    weights: Float32[np.ndarray, "h w 2"]


class Look(NamedTuple):
    """Colours and light of a photo; `palette` has the rows named above."""

    palette: Float32[np.ndarray, "5 3"]
    texture: Float32[np.ndarray, "3 side side 3"]
    cut: Float32[np.ndarray, "8"]
    light: Float32[np.ndarray, "3"]
    phases: Float32[np.ndarray, "3"]


@kernel
def compute_skin_color(palette, x, y, z):
    """Return (r, g, b) of skin at a rest-pose point: lips, brows, cheeks, otherwise plain."""
    r, g, b = palette[SKIN_RGB, 0], palette[SKIN_RGB, 1], palette[SKIN_RGB, 2]
    if z < 0.09 or y < 0.28:
        return r, g, b
    lips = (x / 0.026) ** 2 + ((y - 0.3115) / 0.0105) ** 2
    if lips < 1.0 and z > 0.13:
        return r * 0.84 + 0.02, g * 0.56, b * 0.58
    from_brow = abs(x) - 0.033
    brow = (from_brow / 0.021) ** 2 + (
        (y - 0.4125 + from_brow * 0.025 + from_brow * from_brow * 6.0) / 0.0042
    ) ** 2
    if brow < 1.0:
        return (
            0.7 * palette[HAIR_RGB, 0] + 0.2 * r,
            0.7 * palette[HAIR_RGB, 1] + 0.2 * g,
            0.7 * palette[HAIR_RGB, 2] + 0.2 * b,
        )
    cheek = 1.0 - ((abs(x) - 0.05) / 0.022) ** 2 - ((y - 0.335) / 0.022) ** 2
    if cheek > 0.0:
        return r, g * (1.0 - 0.07 * cheek), b * (1.0 - 0.07 * cheek)
    return r, g, b


@kernel
def compute_eye_color(palette, x, y, z):
    """Return (r, g, b) of an eyeball: pupil, iris, white."""
    away = (abs(x) - 0.0313) ** 2 + (y - 0.3875) ** 2
    if z > 0.13 and away < 0.003**2:
        return 0.04, 0.04, 0.04
    if z > 0.13 and away < 0.0068**2:
        return palette[EYE_RGB, 0], palette[EYE_RGB, 1], palette[EYE_RGB, 2]
    return 0.92, 0.92, 0.92


@kernel
def compute_cloth_relief(x, y, z, phases):
    """Return the brightness change of soft folds, about -0.06 to 0.06."""
    return (
        0.025 * np.sin(x * 26 + y * 17 + phases[0])
        + 0.02 * np.sin(y * 24 - x * 15 + z * 9 + phases[1])
        + 0.015 * np.sin(x * 43 + z * 31 + y * 8 + phases[2])
    )


@kernel
def shade_pixels(mesh, fragments, look, color, label) -> None:
    """Write RGB in [0, 1] and CIHP ids of all covered pixels; others keep their values.

    Wrapped Lambert shading, scaled so that cloth facing the camera keeps its colour.
    """
    screen, faces, materials, attributes, normals, labels = mesh
    triangle, weights = fragments
    palette, texture, cut, light, phases = look
    height, width = triangle.shape
    trim = palette[TRIM_RGB]
    for row in range(height):
        for column in range(width):
            f = triangle[row, column]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb = weights[row, column, 0], weights[row, column, 1]
            wc = np.float32(1.0) - wa - wb
            corners, inside = (a, b, c), (wa, wb, wc)
            nx = interpolate(normals, corners, inside, 0)
            ny = interpolate(normals, corners, inside, 1)
            nz = interpolate(normals, corners, inside, 2)
            x = interpolate(attributes, corners, inside, 0)
            y = interpolate(attributes, corners, inside, 1)
            z = interpolate(attributes, corners, inside, 2)
            turned = compute_signed_area(
                screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
            ) > 0  # fmt: skip
            # the back of cloth or hair faces the camera
            if turned:
                nx, ny, nz = -nx, -ny, -nz
            lit = nx * light[0] + ny * light[1] + nz * light[2]
            material = materials[f]
            gain = 1.0
            if material == SKIN:
                red, green, blue = compute_skin_color(palette, x, y, z)
            elif material == EYE:
                red, green, blue = compute_eye_color(palette, x, y, z)
            elif material == HAIR:
                red, green, blue = palette[HAIR_RGB, 0], palette[HAIR_RGB, 1], palette[HAIR_RGB, 2]
                strand = np.sin(np.arctan2(x, z - 0.055) * 23 + 2 * np.sin(y * 31 + phases[1]))
                gain = 0.98 + 0.1 * strand + 0.25 * max(lit - 0.75, 0.0)
                gain *= 0.7 if turned else 1.0
            elif material == TROUSERS:
                red, green, blue = (
                    palette[TROUSERS_RGB, 0],
                    palette[TROUSERS_RGB, 1],
                    palette[TROUSERS_RGB, 2],
                )
                gain = 1.0 + 1.3 * compute_cloth_relief(x, y, z, phases)
                if abs(x) < 0.004 and z > 0.05:
                    gain *= 0.85
            else:
                beyond = interpolate(attributes, corners, inside, 3)
                if beyond > 0.0 and beyond < cut[SLEEVE_M]:
                    across = interpolate(attributes, corners, inside, 4)
                    red, green, blue = compute_sleeve_color(texture, cut, trim, beyond, across)
                else:
                    # x is stored as a share of the half width, see mesh_parts.MeshPart
                    flat_x = x * compute_half_width(y)
                    red, green, blue = compute_torso_color(texture, cut, trim, flat_x, y, z > 0.0)
                gain = 1.0 + compute_cloth_relief(x * 0.2 + beyond, y, z, phases)
                # the inside of the garment is in shadow
                gain *= 0.62 if turned else 1.0
            half = 0.5 + 0.5 * lit
            gain *= 0.5 + 0.54 * half
            color[row, column, 0] = red * gain
            color[row, column, 1] = green * gain
            color[row, column, 2] = blue * gain
            # labels are not interpolated: take that of the nearest vertex
            nearest = a if wa >= wb and wa >= wc else (b if wb >= wc else c)
            label[row, column] = labels[nearest]


@kernel
def downsample(color, label, factor, small_color, small_label) -> None:
    """Write the mean colour (uint8) and the most frequent label of each factor x factor block."""
    height, width = small_label.shape
    scale = np.float32(255.0 / (factor * factor))
    counts = np.zeros(MAX_LABEL, np.int32)
    for y in range(height):
        top = y * factor
        for x in range(width):
            left = x * factor
            first = label[top, left]
            uniform = True
            red = green = blue = np.float32(0)
            for j in range(top, top + factor):
                for i in range(left, left + factor):
                    red += min(max(color[j, i, 0], np.float32(0)), np.float32(1))
                    green += min(max(color[j, i, 1], np.float32(0)), np.float32(1))
                    blue += min(max(color[j, i, 2], np.float32(0)), np.float32(1))
                    uniform &= label[j, i] == first
            small_color[y, x, 0] = np.uint8(red * scale + np.float32(0.5))
            small_color[y, x, 1] = np.uint8(green * scale + np.float32(0.5))
            small_color[y, x, 2] = np.uint8(blue * scale + np.float32(0.5))
            small_label[y, x] = first
            if not uniform:
                counts[:] = 0
                for j in range(top, top + factor):
                    for i in range(left, left + factor):
                        counts[label[j, i]] += 1
                small_label[y, x] = np.uint8(counts.argmax())
