"""The two ways to draw a painted mesh: pyrender (OpenGL through EGL) and our own z-buffer."""

import atexit
import functools
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.body import zbuffer
from omfa_jax.body.camera import Camera
from omfa_jax.body.styles import Painted
from omfa_jax.core.errors import OmfaError, unknown

Draw = Callable[[Painted, Camera], UInt8[np.ndarray, "h w 3"]]
BACKENDS = ("auto", "pyrender", "zbuffer")

SOFTWARE_GL = ("llvmpipe", "softpipe", "swrast", "swiftshader")

_SUPERSAMPLE = 2
_PYRENDER_HINT = "pip install pyrender2, apt-get install libegl1 libgl1, or use --backend zbuffer"
_gl_lock = threading.Lock()


def resolve(backend: str) -> str:
    """Return "pyrender" or "zbuffer": `auto` is whichever is faster in this process.

    That is pyrender on a GPU; where OpenGL runs in software, the z-buffer if numba compiles it.
    The fallback where pyrender does not work is said once on the log. Raises OmfaError for an
    unknown name, and if pyrender is asked for but does not work.
    """
    if backend not in BACKENDS:
        raise unknown("render backend", backend, BACKENDS)
    if backend == "zbuffer":
        return backend
    reason = pyrender_failure()
    if backend == "pyrender" and reason:
        raise OmfaError(f"backend pyrender does not work here: {reason}; {_PYRENDER_HINT}")
    if reason:
        _log_fallback(reason)
    software = bool(reason) or (backend == "auto" and zbuffer.has_numba() and not on_gpu())
    return "zbuffer" if software else "pyrender"


def draw(painted: Painted, camera: Camera, backend: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture, black background, drawn by a backend that `resolve` returned."""
    return _DRAW[backend](painted, camera)


def draw_zbuffer(painted: Painted, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Draw with the z-buffer, averaging 2x2 samples a pixel; back faces are not drawn."""
    large = camera.resized(camera.width_px * _SUPERSAMPLE, camera.height_px * _SUPERSAMPLE)
    pixels, depth = large.project_camera(painted.vertices)
    screen = np.column_stack([pixels, depth])
    size = (camera.width_px, camera.height_px)
    return zbuffer.draw(screen, painted.faces, painted.colors, *size, samples=_SUPERSAMPLE)


def draw_pyrender(painted: Painted, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Draw with pyrender, 4 samples a pixel; back faces are not drawn."""
    pyrender = _import_pyrender()
    # OpenGL's camera looks along -z with y up
    positions = (painted.vertices * (1.0, -1.0, -1.0)).astype(np.float32)
    colors = np.column_stack([painted.colors, np.ones(len(positions))]).astype(np.float32)
    primitive = pyrender.Primitive(
        positions=positions,
        indices=painted.faces,
        color_0=np.clip(colors, 0, 1),
        # floats: pyrender takes the integer 1 for 1/255
        material=pyrender.MetallicRoughnessMaterial(baseColorFactor=[1.0, 1.0, 1.0, 1.0]),
    )
    depth = painted.vertices[:, 2]
    far = max(float(depth.max()), 1.0) * 1.1
    near = max(float(depth.min()) * 0.9, far * 1e-4)
    (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
    scene = pyrender.Scene(bg_color=[0.0, 0.0, 0.0, 1.0])
    scene.add(pyrender.Mesh([primitive]))
    scene.add(pyrender.IntrinsicsCamera(fx, fy, cx, cy, znear=near, zfar=far))
    with _gl_lock:
        renderer = _renderer(os.getpid())
        renderer.viewport_width = camera.width_px
        renderer.viewport_height = camera.height_px
        color, _ = renderer.render(scene, flags=pyrender.RenderFlags.FLAT)
    return np.array(color[:, :, :3])


_DRAW: dict[str, Draw] = {"zbuffer": draw_zbuffer, "pyrender": draw_pyrender}


@functools.cache
def pyrender_failure() -> str | None:
    """Return why pyrender cannot draw in this process (one line), or None if it can."""
    square = np.array([[-1, -1, 2], [-1, 1, 2], [1, 1, 2], [1, -1, 2]], dtype=np.float64)
    faces = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    camera = Camera((8.0, 8.0), (4.0, 4.0), 8, 8, np.eye(3), np.zeros(3))
    try:
        picture = draw_pyrender(Painted(square, faces, np.ones((4, 3))), camera)
    # a missing driver shows up as ImportError, AttributeError, GLError, ... by version
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        return f"{type(error).__name__}: {reason[:200]}"
    return None if picture[4, 4].min() > 250 else "the picture of a white square came out dark"


@functools.cache
def on_gpu() -> bool:
    """Tell whether pyrender, which must work here, draws on a GPU (Mesa's CPU drivers do not)."""
    renderer = _renderer(os.getpid())
    from OpenGL.GL import GL_RENDERER, glGetString

    with _gl_lock:
        renderer._platform.make_current()
        name = (glGetString(GL_RENDERER) or b"").decode(errors="replace").lower()
    return not any(driver in name for driver in SOFTWARE_GL)


def _import_pyrender() -> Any:
    # both are read at the first import only; without them pyrender looks for a display
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    os.environ.setdefault("PYGLET_HEADLESS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyrender
    return pyrender


@functools.cache
def _renderer(process_id: int) -> Any:
    """One renderer a process: deleting any EGL renderer kills all others of its process."""
    del process_id
    renderer = _import_pyrender().OffscreenRenderer(8, 8)
    atexit.register(renderer.delete)
    return renderer


@functools.cache
def _log_fallback(reason: str) -> None:
    engine = "numba" if zbuffer.has_numba() else "numpy (slow; pip install numba)"
    log = logging.getLogger(__name__)
    log.warning("pyrender does not work (%s): drawing with the z-buffer in %s", reason, engine)
