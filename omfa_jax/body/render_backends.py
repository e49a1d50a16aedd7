"""The two rendering backends for a coloured mesh: pyrender (OpenGL via EGL) and a z-buffer."""

import atexit
import contextlib
import functools
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.body import zbuffer
from omfa_jax.body.camera import Camera
from omfa_jax.body.pose_styles import PaintedMesh
from omfa_jax.core.errors import OmfaError, format_install_hint, make_unknown_name_error

Draw = Callable[[PaintedMesh, Camera], UInt8[np.ndarray, "h w 3"]]
BACKENDS = ("auto", "pyrender", "zbuffer")

SOFTWARE_GL = ("llvmpipe", "softpipe", "swrast", "swiftshader")

_SUPERSAMPLE = 2
_PYRENDER_HINT = (
    f"{format_install_hint('body')}, apt-get install libegl1 libgl1, or use --backend zbuffer"
)
# the process has one OpenGL context, which one thread at a time may use
_gl_lock = threading.Lock()


def resolve_backend(backend: str) -> str:
    """Return "pyrender" or "zbuffer"; `auto` is the faster one in this process.

    That is pyrender on a GPU, and the z-buffer where OpenGL runs in software and numba is
    installed. If pyrender does not work, `auto` falls back to the z-buffer and logs it once. Raises
    OmfaError for an unknown name, and if pyrender is requested but does not work.
    """
    if backend not in BACKENDS:
        raise make_unknown_name_error("render backend", backend, BACKENDS)
    if backend == "zbuffer":
        return backend
    reason = find_pyrender_failure()
    if backend == "pyrender" and reason:
        raise OmfaError(f"backend pyrender does not work here: {reason}; {_PYRENDER_HINT}")
    if reason:
        _log_fallback(reason)
    software = bool(reason) or (backend == "auto" and zbuffer.has_numba() and not is_on_gpu())
    return "zbuffer" if software else "pyrender"


def draw(painted: PaintedMesh, camera: Camera, backend: str) -> UInt8[np.ndarray, "h w 3"]:
    """Render on a black background with a backend returned by `resolve_backend`."""
    return _DRAW[backend](painted, camera)


def draw_zbuffer(painted: PaintedMesh, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Render with the z-buffer, averaging 2x2 samples per pixel; back faces are culled."""
    large = camera.resize(camera.width_px * _SUPERSAMPLE, camera.height_px * _SUPERSAMPLE)
    pixels, depth = large.project_camera_points(painted.vertices)
    screen = np.column_stack([pixels, depth])
    size = (camera.width_px, camera.height_px)
    return zbuffer.draw(screen, painted.faces, painted.colors, *size, samples=_SUPERSAMPLE)


def draw_pyrender(painted: PaintedMesh, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Render with pyrender, 4 samples per pixel; back faces are culled."""
    pyrender = _import_pyrender()
    # OpenGL's camera looks along -z with y up, `Camera` along +z with y down
    positions = (painted.vertices * (1.0, -1.0, -1.0)).astype(np.float32)
    colors = np.column_stack([painted.colors, np.ones(len(positions))]).astype(np.float32)
    primitive = pyrender.Primitive(
        positions=positions,
        indices=painted.faces,
        color_0=np.clip(colors, 0, 1),
        # floats: pyrender reads the integer 1 as 1/255
        material=pyrender.MetallicRoughnessMaterial(baseColorFactor=[1.0, 1.0, 1.0, 1.0]),
    )
    depth = painted.vertices[:, 2]
    far = max(float(depth.max()), 1.0) * 1.1
    # the ratio far / near is bounded by the precision of OpenGL's depth buffer
    near = max(float(depth.min()) * 0.9, far * 1e-4)
    (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
    scene = pyrender.Scene(bg_color=[0.0, 0.0, 0.0, 1.0])
    scene.add(pyrender.Mesh([primitive]))
    scene.add(pyrender.IntrinsicsCamera(fx, fy, cx, cy, znear=near, zfar=far))
    with _use_renderer() as renderer:
        renderer.viewport_width = camera.width_px
        renderer.viewport_height = camera.height_px
        color, _ = renderer.render(scene, flags=pyrender.RenderFlags.FLAT)
    return np.array(color[:, :, :3])


_DRAW: dict[str, Draw] = {"zbuffer": draw_zbuffer, "pyrender": draw_pyrender}


@functools.cache
def find_pyrender_failure() -> str | None:
    """Return why pyrender does not work in this process, in one line, or None if it does."""
    square = np.array([[-1, -1, 2], [-1, 1, 2], [1, 1, 2], [1, -1, 2]], dtype=np.float64)
    faces = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    camera = Camera((8.0, 8.0), (4.0, 4.0), 8, 8, np.eye(3), np.zeros(3))
    try:
        picture = draw_pyrender(PaintedMesh(square, faces, np.ones((4, 3))), camera)
    # depending on versions, a missing driver raises ImportError, AttributeError, GLError, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        return f"{type(error).__name__}: {reason[:200]}"
    return None if picture[4, 4].min() > 250 else "a white test square was rendered dark"


@functools.cache
def is_on_gpu() -> bool:
    """Return True if pyrender, which must work here, uses a GPU instead of Mesa's CPU drivers."""
    from OpenGL.GL import GL_RENDERER, glGetString

    with _use_renderer() as renderer:
        renderer._platform.make_current()
        name = (glGetString(GL_RENDERER) or b"").decode(errors="replace").lower()
    return not any(driver in name for driver in SOFTWARE_GL)


def _import_pyrender() -> Any:
    # read at the first import only; without them pyrender needs a display
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    os.environ.setdefault("PYGLET_HEADLESS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyrender
    return pyrender


@contextlib.contextmanager
def _use_renderer() -> Iterator[Any]:
    """Yield the renderer to this thread alone, and let go of its context for other threads."""
    with _gl_lock:
        renderer = _renderer(os.getpid())
        try:
            yield renderer
        finally:
            # pyrender leaves it current, and EGL then refuses it to every other thread
            display = getattr(renderer._platform, "_egl_display", None)
            if display is not None:
                from OpenGL import EGL

                none = EGL.EGL_NO_SURFACE
                EGL.eglMakeCurrent(display, none, none, EGL.EGL_NO_CONTEXT)


@functools.cache
def _renderer(process_id: int) -> Any:
    """Return the process's only renderer: deleting any EGL renderer breaks all others in it."""
    del process_id
    renderer = _import_pyrender().OffscreenRenderer(8, 8)
    atexit.register(renderer.delete)
    return renderer


@functools.cache
def _log_fallback(reason: str) -> None:
    engine = "numba" if zbuffer.has_numba() else f"numpy (slow; {format_install_hint('body')})"
    log = logging.getLogger(__name__)
    log.warning("pyrender does not work (%s): rendering with the z-buffer in %s", reason, engine)
