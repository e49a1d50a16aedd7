"""CPU time of a pose map at 768x1024 by stage and renderer, in milliseconds.

    PYTHONPATH=. python bench/render.py

The stages are interleaved. The minimum of 15 runs is printed, because it is the least disturbed by
other programs.
"""

import time

import numpy as np

from omfa_jax.body import render_backends
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_styles import paint
from omfa_jax.body.smplx_forward import forward
from omfa_jax.core.images import encode_png

TURNS = 15


def main() -> None:
    """Print the table."""
    model, body = load_body_model(), make_neutral_params().replace(global_orient=(0, 0.3, 0))
    camera = make_look_at_camera(
        (0, -0.3, 2.6), (0, -0.35, 0), focal_px=1200, width_px=768, height_px=1024
    )
    vertices, _ = forward(model, body)
    painted = paint("normals", camera.to_camera(vertices), model.faces, model)
    picture = render_backends.draw_zbuffer(painted, camera)
    stages = {
        "body from parameters": lambda: forward(model, body),
        "normals": lambda: paint("normals", camera.to_camera(vertices), model.faces, model),
        "z-buffer, 2x2 samples a pixel": lambda: render_backends.draw_zbuffer(painted, camera),
        "PNG": lambda: encode_png(picture),
    }
    if render_backends.find_pyrender_failure() is None:
        driver = "a GPU" if render_backends.is_on_gpu() else "llvmpipe"
        stages[f"pyrender on {driver}, 4 samples"] = lambda: render_backends.draw_pyrender(
            painted, camera
        )
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(TURNS):
        for name, stage in stages.items():
            start = time.process_time()
            stage()
            times[name].append(1e3 * (time.process_time() - start))
    for name, taken in times.items():
        print(f"{name:32} {np.min(taken):6.1f} ms (median {np.median(taken):.1f})")


if __name__ == "__main__":
    main()
