"""The named poses of the library as small pictures, to choose from."""

import numpy as np
from jaxtyping import Bool, UInt8

from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.target_poses import make_library_targets
from omfa_jax.core.images import resize
from omfa_jax.sampling.pose_sources import draw_body

# (width, height) of the drawing, and the side of the picture that is cut out of it
DRAWN_PX, SIDE_PX = (256, 256), 128
MARGIN_PX = 10
STYLE = "shaded"
PAPER = 255


def draw_pose_pictures(
    names: list[str] | None = None,
) -> dict[str, UInt8[np.ndarray, "128 128 3"]]:
    """Return a picture of every pose of the library (or of `names`), on white."""
    given = {"library": None, "body": None, "smplx_model": None, "size_px": DRAWN_PX}
    bodies, camera = make_library_targets(names, **given)
    model = load_body_model(None)
    pictures = {}
    for name, body in bodies.items():
        drawn = draw_body(body, camera, STYLE, model)
        on_paper = np.where(drawn.any(-1, keepdims=True), drawn, np.uint8(PAPER))
        pictures[name] = resize(cut_square(on_paper, drawn.max(-1) > 0), SIDE_PX, SIDE_PX)
    return pictures


def cut_square(
    image: UInt8[np.ndarray, "h w 3"], shown: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "side side 3"]:
    """Return the square around what is shown, with a margin, on white."""
    rows, columns = (np.nonzero(shown.any(axis))[0] for axis in (1, 0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * MARGIN_PX
    square = np.full((side, side, 3), PAPER, np.uint8)
    part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return square
