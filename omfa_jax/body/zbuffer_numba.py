"""The z-buffer's compiled kernels; import only where numba is installed.

`rasterize_into` implements `zbuffer.rasterize`. The small kernels are also used by other compiled
loops with their own clipping or shading. `no_type_check` keeps run-time type checkers, which the
tests use, from wrapping functions that numba must compile.
"""

from math import ceil, floor
from typing import no_type_check

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
@no_type_check
def compute_signed_area(ax: float, ay: float, bx: float, by: float, cx: float, cy: float) -> float:
    """Return twice the triangle's area on the screen (px^2), negative if it faces the camera."""
    return (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)


@numba.njit(cache=True, nogil=True)
@no_type_check
def compute_pixel_range(a: float, b: float, c: float, size_px: int) -> tuple[int, int]:
    """Return the (first, last) pixel with its centre between three coordinates; may be empty."""
    low = max(ceil(min(a, b, c) - 0.5), 0)
    high = min(floor(max(a, b, c) - 0.5), size_px - 1)
    return low, high


@numba.njit(cache=True, nogil=True)
@no_type_check
def rasterize_into(
    points: np.ndarray,
    faces: np.ndarray,
    cull_back: bool,
    triangle: np.ndarray,
    barycentric: np.ndarray,
    inverse_depth: np.ndarray,
) -> None:
    """Draw into the buffers of a Raster; `points` as from `zbuffer.to_screen_points`."""
    height, width = triangle.shape
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay, inverse_a = points[a, 0], points[a, 1], points[a, 2]
        bx, by, inverse_b = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, inverse_c = points[c, 0], points[c, 1], points[c, 2]
        area = compute_signed_area(ax, ay, bx, by, cx, cy)
        if area == 0.0 or (cull_back and area > 0.0):
            continue
        if inverse_a <= 0.0 or inverse_b <= 0.0 or inverse_c <= 0.0:
            continue
        scale = 1.0 / area
        left, right = compute_pixel_range(ax, bx, cx, width)
        top, bottom = compute_pixel_range(ay, by, cy, height)
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                wa = ((bx - px) * (cy - py) - (cx - px) * (by - py)) * scale
                if wa < 0.0:
                    continue
                wb = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) * scale
                if wb < 0.0:
                    continue
                wc = ((ax - px) * (by - py) - (bx - px) * (ay - py)) * scale
                if wc < 0.0:
                    continue
                share_a, share_b, share_c = wa * inverse_a, wb * inverse_b, wc * inverse_c
                total = share_a + share_b + share_c
                nearness = np.float32(total)
                if nearness > inverse_depth[y, x]:
                    inverse_depth[y, x] = nearness
                    triangle[y, x] = t
                    barycentric[y, x, 0] = share_a / total
                    barycentric[y, x, 1] = share_b / total
                    barycentric[y, x, 2] = share_c / total


@numba.njit(cache=True, nogil=True)
@no_type_check
def paint_into(
    points: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    samples: int,
    inverse_depth: np.ndarray,
    painted: np.ndarray,
    picture: np.ndarray,
) -> None:
    """Draw front faces with per-vertex colours (v 3, 0..1) into `picture` (h w 3, uint8).

    The result is that of `rasterize_into` followed by shading, in one pass. `picture` must be
    black. The buffers are `samples` times its size: `inverse_depth` (H W), all zero, and `painted`
    (H W 3).
    """
    height, width = inverse_depth.shape
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay, inverse_a = points[a, 0], points[a, 1], points[a, 2]
        bx, by, inverse_b = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, inverse_c = points[c, 0], points[c, 1], points[c, 2]
        area = compute_signed_area(ax, ay, bx, by, cx, cy)
        # back faces, and triangles that reach behind the camera
        if area >= 0.0 or inverse_a <= 0.0 or inverse_b <= 0.0 or inverse_c <= 0.0:
            continue
        left, right = compute_pixel_range(ax, bx, cx, width)
        top, bottom = compute_pixel_range(ay, by, cy, height)
        # weights over depth are linear on the screen; each row restarts, so errors do not add up
        scale_a, scale_b, scale_c = inverse_a / area, inverse_b / area, inverse_c / area
        across_a, across_b, across_c = (by - cy) * scale_a, (cy - ay) * scale_b, (ay - by) * scale_c
        px = left + 0.5
        for y in range(top, bottom + 1):
            py = y + 0.5
            row_a = ((bx - px) * (cy - py) - (cx - px) * (by - py)) * scale_a
            row_b = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) * scale_b
            row_c = ((ax - px) * (by - py) - (bx - px) * (ay - py)) * scale_c
            for x in range(left, right + 1):
                step = x - left
                wa, wb = row_a + step * across_a, row_b + step * across_b
                wc = row_c + step * across_c
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                total = wa + wb + wc
                if total > inverse_depth[y, x]:
                    inverse_depth[y, x] = total
                    share = 1.0 / total
                    wa, wb, wc = wa * share, wb * share, wc * share
                    for k in range(3):
                        painted[y, x, k] = wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]
    # averaged with the black background, which smooths the silhouette
    scale, half = np.float32(255.0 / (samples * samples)), np.float32(0.5)
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            seen = False
            for sy in range(y * samples, (y + 1) * samples):
                for sx in range(x * samples, (x + 1) * samples):
                    if inverse_depth[sy, sx] > 0.0:
                        seen = True
                        red += painted[sy, sx, 0]
                        green += painted[sy, sx, 1]
                        blue += painted[sy, sx, 2]
            if seen:
                picture[y, x, 0] = np.uint8(red * scale + half)
                picture[y, x, 1] = np.uint8(green * scale + half)
                picture[y, x, 2] = np.uint8(blue * scale + half)
