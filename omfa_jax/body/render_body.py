"""Rendering of a posed body to a pose map, the image that the model is conditioned on."""

import numpy as np
from jaxtyping import Float, Int32, UInt8

from omfa_jax.body import render_backends
from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.camera import Camera
from omfa_jax.body.pose_styles import paint


def render(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    camera: Camera,
    style: str = "normals",
    *,
    backend: str = "auto",
    body: BodyModel | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an RGB image of the mesh (world metres) on black, of the camera's size.

    Styles: "normals" (camera space, (n + 1) / 2 * 255 with x right, y up, z towards the viewer),
    "positions" (position on the body in the rest pose) and "parts" (a colour per body part), which
    need `body`, the model that the mesh was posed from; "shaded" (grey). Backends: "pyrender",
    "zbuffer", or "auto", the faster one that works. Edges are antialiased. Raises OmfaError for an
    unknown style or backend, or if pyrender is requested and does not work.
    """
    chosen = render_backends.resolve_backend(backend)
    painted = paint(style, camera.to_camera(vertices), faces, body)
    return render_backends.draw(painted, camera, chosen)
