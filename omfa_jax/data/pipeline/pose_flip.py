"""Horizontal flip of pose maps, whose colours encode left and right."""

import numpy as np
from jaxtyping import Float32, UInt8

from omfa_jax.core.errors import OmfaError

# styles whose red channel is an x component: of the surface normal, or of the place on the body
FLIPPABLE_STYLES = ("normals", "positions")
REFUSAL_REASONS = {
    "parts": "antialiased edges blend the colours of two parts, which cannot be swapped afterwards",
    "shaded": "its light comes from the right and would come from the left after the flip",
    "": "the records do not state the style",
}


def require_flippable(style: str, where: str) -> None:
    """Raise an OmfaError unless pose maps of this style can be flipped correctly."""
    if style not in FLIPPABLE_STYLES:
        raise OmfaError(
            f"{where}: pose maps of style {style!r} cannot be flipped"
            f" ({REFUSAL_REASONS.get(style, 'unknown style')});"
            " set config.data.augment.flip_prob=0, or run"
            f" `omfa data poses --style` with one of {', '.join(FLIPPABLE_STYLES)}"
        )


def flip_pose_map(pose: UInt8[np.ndarray, "h w 3"], style: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pose map of the mirrored body: pixels flipped, red inverted where the body is.

    For styles in FLIPPABLE_STYLES, on black. A pixel at the silhouette is only partly covered by
    the body, so red is inverted about its coverage, which is estimated from the brightest neighbour
    and, for normals, from their unit length.
    """
    flipped = np.ascontiguousarray(pose[:, ::-1])
    full = np.where(flipped.any(-1), np.float32(255), np.float32(0))
    y, x = find_edge_pixels(flipped)
    share = estimate_coverage(flipped, y, x)
    if style == "normals":
        share = estimate_normal_coverage(flipped[y, x], share)
    full[y, x] = 255 * share
    # red is (x + 1) / 2 times the coverage; the coverage minus that belongs to -x
    red = np.clip(np.round(full - flipped[..., 0]), 0, 255)
    flipped[..., 0] = red.astype(np.uint8)
    return flipped


def estimate_normal_coverage(
    colours: UInt8[np.ndarray, "pixels 3"], guess: Float32[np.ndarray, "pixels"]
) -> Float32[np.ndarray, "pixels"]:
    """Return the coverage a in [0, 1], nearest to `guess`, at which a colour v is a unit normal.

    |2 v / a - 1| = 1 gives a^2 - 2 a sum(v) + 2 sum(v^2) = 0.
    """
    v = colours.astype(np.float32) / 255
    middle, product = v.sum(-1), 2 * (v * v).sum(-1)
    # rounded to 8 bits, a colour may be no unit normal at any coverage: the nearest one is taken
    spread = np.sqrt(np.maximum(middle * middle - product, 0))
    roots = np.clip(np.stack([middle - spread, middle + spread]), 0, 1)
    nearest = np.abs(roots - guess).argmin(0)
    return np.take_along_axis(roots, nearest[None], axis=0)[0]


def find_edge_pixels(pose: UInt8[np.ndarray, "h w 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the (rows, columns) of the body's pixels that touch the black background."""
    # a body that is cut off by the frame has no silhouette there
    body = np.pad(pose.any(-1), 1, mode="edge")
    rows = body[:-2] & body[1:-1] & body[2:]
    inner = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    y, x = np.nonzero(body[1:-1, 1:-1] & ~inner)
    return y, x


def estimate_coverage(
    pose: UInt8[np.ndarray, "h w 3"], y: np.ndarray, x: np.ndarray
) -> Float32[np.ndarray, "pixels"]:
    """Return the coverage, in [0, 1], of each edge pixel.

    It is the projection of the pixel's colour on that of its brightest neighbour in 3x3.
    """
    padded = np.pad(pose, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    around = np.stack([padded[y + dy, x + dx] for dy in range(3) for dx in range(3)])
    fullest = around.sum(-1).argmax(0)
    colour = np.take_along_axis(around, fullest[None, :, None], axis=0)[0]
    here = around[4]
    share = (here * colour).sum(-1) / np.maximum((colour * colour).sum(-1), 1)
    return np.clip(share, 0, 1)
