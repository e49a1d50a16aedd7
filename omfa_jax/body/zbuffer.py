"""A z-buffer rasterizer in numba, or in numpy where numba is not installed.

Screen coordinates are (x_px, y_px, depth): y grows downwards, depth in metres grows away from the
camera, and pixel (i, j) is sampled at its centre (i + 0.5, j + 0.5). Triangles that wind
counter-clockwise seen from outside (as BodyModel's) have negative area on the screen.
"""

import functools
import importlib.util
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from omfa_jax.core.errors import OmfaError, format_install_hint, make_unknown_name_error

ENGINES = ("auto", "numba", "numpy")
# pixels of bounding boxes that are tested at once
_NUMPY_CHUNK_PX = 4_000_000


class Raster(NamedTuple):
    """The visible triangle of each pixel; where there is none, `triangle` is -1 and the rest is 0.

    `barycentric` holds the perspective-correct weights of the triangle's three corners, and
    `inverse_depth` is 1 / depth (per metre).
    """

    triangle: Int32[np.ndarray, "h w"]
    barycentric: Float32[np.ndarray, "h w 3"]
    inverse_depth: Float32[np.ndarray, "h w"]


@functools.cache
def has_numba() -> bool:
    """Return True if numba is installed."""
    # looked for and not imported: the import is slow, and only drawing needs it
    return importlib.util.find_spec("numba") is not None


def rasterize(
    screen: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    width_px: int,
    height_px: int,
    *,
    cull_back: bool = True,
    engine: str = "auto",
) -> Raster:
    """Return the nearest triangle and its barycentrics at every pixel centre.

    `cull_back` skips triangles seen from behind. A triangle with a corner whose depth is not finite
    and positive is skipped entirely. At equal depth the lower triangle index wins, so that both
    engines give the same image. Raises OmfaError for `engine="numba"` without numba.
    """
    if engine not in ENGINES:
        raise make_unknown_name_error("z-buffer engine", engine, ENGINES)
    if engine == "numba" and not has_numba():
        hint = format_install_hint("body")
        raise OmfaError(f"z-buffer engine 'numba': numba is not installed; {hint}")
    points = to_screen_points(screen)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    out = make_empty_raster(width_px, height_px)
    if engine == "numpy" or not has_numba():
        _rasterize_numpy(points, faces, cull_back, out)
    else:
        from omfa_jax.body.zbuffer_numba import rasterize_into

        rasterize_into(points, faces, cull_back, *out)
    return out


def to_screen_points(screen: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Return float64 (x, y, 1 / depth) for the kernels; 1 / depth is 0 for unusable points."""
    points = np.array(screen, dtype=np.float64, order="C")
    usable = np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
    # 1 / inf is 0, by which the kernels recognise a corner to skip
    points[~usable] = (0.0, 0.0, np.inf)
    points[:, 2] = 1.0 / points[:, 2]
    return points


def make_empty_raster(width_px: int, height_px: int) -> Raster:
    """Return empty buffers."""
    size = (height_px, width_px)
    return Raster(
        triangle=np.full(size, -1, np.int32),
        barycentric=np.zeros((*size, 3), np.float32),
        inverse_depth=np.zeros(size, np.float32),
    )


def draw(
    screen: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    colors: Float[np.ndarray, "v 3"],
    width_px: int,
    height_px: int,
    *,
    samples: int = 1,
    engine: str = "auto",
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image of the front faces with per-vertex `colors` (0..1), on black.

    Each pixel is the mean of `samples` x `samples` points; `screen` is in pixels of an image that
    is `samples` times as large. Visibility is that of `rasterize`.
    """
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    points = to_screen_points(screen)
    seen = points[np.isfinite(points[:, 2])]
    if not len(seen):
        return picture
    # rasterize only the bounding box of the mesh
    limits = (width_px, height_px)
    left, top = np.clip(np.floor(seen[:, :2].min(0) / samples), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(seen[:, :2].max(0) / samples), 0, limits).astype(int)
    if right <= left or bottom <= top:
        return picture
    points[:, :2] -= (left * samples, top * samples)
    window = picture[top:bottom, left:right]
    sides = (window.shape[0] * samples, window.shape[1] * samples)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    if engine == "numpy" or not has_numba():
        raster = make_empty_raster(sides[1], sides[0])
        _rasterize_numpy(points, faces, True, raster)
        window[:] = _shade(raster, faces, colors, samples)
        return picture
    from omfa_jax.body.zbuffer_numba import paint_into

    buffers = np.zeros(sides, np.float32), np.empty((*sides, 3), np.float32)
    paint_into(points, faces, np.ascontiguousarray(colors, np.float32), samples, *buffers, window)
    return picture


def _shade(
    raster: Raster, faces: Int32[np.ndarray, "f 3"], colors: Float[np.ndarray, "v 3"], samples: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width = (side // samples for side in raster.triangle.shape)
    seen = raster.triangle >= 0
    row, column = np.nonzero(seen)
    pixel = (row // samples) * width + column // samples
    found = _interpolate(raster, seen, faces, colors)
    # samples off the body count as black, which smooths the silhouette
    total = [np.bincount(pixel, found[:, c], height * width) for c in range(3)]
    mean = np.stack(total, axis=1).reshape(height, width, 3) / samples**2
    # half up, as the compiled kernel does; np.rint would round halves to even
    return np.floor(np.clip(mean, 0, 1) * 255 + 0.5).astype(np.uint8)


def _interpolate(
    raster: Raster,
    seen: Bool[np.ndarray, "h w"],
    faces: Int32[np.ndarray, "f 3"],
    values: Float[np.ndarray, "v c"],
) -> Float32[np.ndarray, "p c"]:
    corners = values.astype(np.float32)[faces[raster.triangle[seen]]]
    return np.einsum("pk,pkc->pc", raster.barycentric[seen], corners)


def _rasterize_numpy(
    points: Float[np.ndarray, "v 3"], faces: Int32[np.ndarray, "f 3"], cull_back: bool, out: Raster
) -> None:
    height, width = out.triangle.shape
    x, y, inverse = np.moveaxis(points[faces], 2, 0)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    # a pixel is tested if its centre, at + 0.5, lies in the triangle's bounding box
    low_x = np.maximum(np.ceil(x.min(1) - 0.5), 0).astype(np.int64)
    high_x = np.minimum(np.floor(x.max(1) - 0.5), width - 1).astype(np.int64)
    low_y = np.maximum(np.ceil(y.min(1) - 0.5), 0).astype(np.int64)
    high_y = np.minimum(np.floor(y.max(1) - 0.5), height - 1).astype(np.int64)
    visible = (area < 0) if cull_back else (area != 0)
    visible &= (inverse > 0).all(1) & (high_x >= low_x) & (high_y >= low_y)
    shown = np.flatnonzero(visible)
    columns = (high_x - low_x + 1)[shown]
    counts = columns * (high_y - low_y + 1)[shown]
    # chunks of triangles bound the memory; later chunks lose ties, because lower indices must win
    chunk = np.cumsum(counts) // _NUMPY_CHUNK_PX
    for part in np.unique(chunk):
        chosen = chunk == part
        triangle = np.repeat(shown[chosen], counts[chosen])
        start = np.cumsum(counts[chosen]) - counts[chosen]
        offset = np.arange(len(triangle)) - np.repeat(start, counts[chosen])
        row, column = np.divmod(offset, np.repeat(columns[chosen], counts[chosen]))
        column += low_x[triangle]
        row += low_y[triangle]
        px, py = column + 0.5, row + 0.5
        tx, ty, scale = x[triangle], y[triangle], 1.0 / area[triangle]
        # over the signed area, so that inside is positive whichever way the triangle winds
        w0, w1, w2 = (
            ((tx[:, b] - px) * (ty[:, c] - py) - (tx[:, c] - px) * (ty[:, b] - py)) * scale
            for b, c in ((1, 2), (2, 0), (0, 1))
        )
        inside = np.flatnonzero((w0 >= 0) & (w1 >= 0) & (w2 >= 0))
        triangle = triangle[inside]
        # linear on the screen, unlike the weights themselves; their sum is 1 / depth
        shares = np.stack([w0[inside], w1[inside], w2[inside]], 1) * inverse[triangle]
        total = shares[:, 0] + shares[:, 1] + shares[:, 2]
        # rounded before it is compared, as in the compiled kernel, so that both see the same ties
        nearness = total.astype(np.float32)
        flat = row[inside] * width + column[inside]
        # the last write wins: sort by nearness, then by falling index
        order = np.lexsort((-triangle, nearness))
        winner = np.full(height * width, -1)
        winner[flat[order]] = order
        seen = np.flatnonzero(winner >= 0)
        seen = seen[nearness[winner[seen]] > out.inverse_depth.ravel()[seen]]
        best = winner[seen]
        out.triangle.ravel()[seen] = triangle[best]
        out.inverse_depth.ravel()[seen] = nearness[best]
        out.barycentric.reshape(-1, 3)[seen] = shares[best] / total[best, None]
