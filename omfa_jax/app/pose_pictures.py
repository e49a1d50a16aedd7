"""The named poses of the library as small pictures, to choose from."""

import numpy as np
from jaxtyping import UInt8

from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.target_poses import make_library_targets
from omfa_jax.sampling.pose_sources import draw_body

# (width, height); thumbnails are square
SIZE_PX = (128, 128)
STYLE = "shaded"
PAPER = 255


def draw_pose_pictures(
    names: list[str] | None = None,
) -> dict[str, UInt8[np.ndarray, "128 128 3"]]:
    """Return a picture of every pose of the library (or of `names`), on white."""
    given = {"library": None, "body": None, "smplx_model": None, "size_px": SIZE_PX}
    bodies, camera = make_library_targets(names, **given)
    model = load_body_model(None)
    pictures = {}
    for name, body in bodies.items():
        drawn = draw_body(body, camera, STYLE, model)
        pictures[name] = np.where(drawn.any(-1, keepdims=True), drawn, np.uint8(PAPER))
    return pictures
