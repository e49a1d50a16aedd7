"""The z-buffer against ray casting, and its two engines against each other."""

import numpy as np
import pytest

from omfa_jax.body import zbuffer
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.vertex_normals import compute_vertex_normals
from omfa_jax.body.zbuffer import Raster, draw, rasterize, to_screen_points
from omfa_jax.core.errors import OmfaError

WIDTH, HEIGHT = 40, 32
ENGINES = [
    pytest.param(
        "numba", marks=pytest.mark.skipif(not zbuffer.has_numba(), reason="numba not installed")
    ),
    "numpy",
]


def triangle_soup(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random triangles before a camera at the origin: (camera points, screen, faces)."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (90, 3)) + [0, 0, 3.5]
    pixels = points[:, :2] / points[:, 2:] * 30 + [WIDTH / 2, HEIGHT / 2]
    faces = np.arange(90, dtype=np.int32).reshape(-1, 3)
    return points, np.column_stack([pixels, points[:, 2]]), faces


def ray_cast(points: np.ndarray, faces: np.ndarray, cull_back: bool) -> tuple[np.ndarray, ...]:
    """Solve origin + t * ray = barycentric mean of the corners, for every pixel and triangle."""
    row, column = np.indices((HEIGHT, WIDTH)) + 0.5
    rays = np.stack([(column - WIDTH / 2) / 30, (row - HEIGHT / 2) / 30, np.ones_like(row)], -1)
    nearest = np.full((HEIGHT, WIDTH), np.inf)
    triangle = np.full((HEIGHT, WIDTH), -1)
    shares = np.zeros((HEIGHT, WIDTH, 3))
    for index, face in enumerate(faces):
        corners = points[face]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        # counter-clockwise from outside: the normal points at the viewer
        if cull_back and normal @ corners[0] >= 0:
            continue
        weights = rays @ np.linalg.inv(corners)
        depth = 1 / weights.sum(-1)
        hit = (weights >= 0).all(-1) & (depth < nearest)
        nearest[hit], triangle[hit] = depth[hit], index
        shares[hit] = (weights * depth[..., None])[hit]
    return triangle, shares, nearest


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cull_back", [True, False])
def test_equals_ray_casting(engine: str, cull_back: bool):
    for seed in range(3):
        points, screen, faces = triangle_soup(seed)
        found = rasterize(screen, faces, WIDTH, HEIGHT, cull_back=cull_back, engine=engine)
        triangle, shares, depth = ray_cast(points, faces, cull_back)
        assert (triangle >= 0).mean() > 0.1
        np.testing.assert_array_equal(found.triangle, triangle)
        np.testing.assert_allclose(found.barycentric, shares, atol=1e-5)
        seen = triangle >= 0
        np.testing.assert_allclose(1 / found.inverse_depth[seen], depth[seen], rtol=1e-5)
        assert (found.inverse_depth[~seen] == 0).all()


def body_screen(width_px: int, height_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    model = load_body_model()
    vertices, _ = forward(model, make_neutral_params().replace(global_orient=[0.1, 0.7, 0.0]))
    focal_px = 1.7 * height_px
    camera = make_look_at_camera(
        (0.3, 0, 4), (0, -0.4, 0), focal_px=focal_px, width_px=width_px, height_px=height_px
    )
    screen = np.column_stack(camera.project(vertices))
    return screen, model.faces, (compute_vertex_normals(vertices, model.faces) + 1) / 2


@pytest.mark.skipif(not zbuffer.has_numba(), reason="numba not installed")
@pytest.mark.parametrize("chunk_px", [4_000_000, 5_000])
def test_engines_give_the_same_bits(chunk_px: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zbuffer, "_NUMPY_CHUNK_PX", chunk_px)
    screen, faces, colors = body_screen(192, 256)
    compiled = rasterize(screen, faces, 192, 256, engine="numba")
    plain = rasterize(screen, faces, 192, 256, engine="numpy")
    for name, one, other in zip(Raster._fields, compiled, plain, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    pictures = [
        draw(screen, faces, colors, 96, 128, samples=2, engine=e).astype(int)
        for e in ("numba", "numpy")
    ]
    assert pictures[0].shape == (128, 96, 3) and pictures[0].max() > 200
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_grid_has_no_holes_and_no_doubles(engine: str):
    rng = np.random.default_rng(0)
    side = 12
    y, x = np.mgrid[0:side, 0:side].astype(float)
    inner = (slice(1, -1), slice(1, -1))
    x[inner] += rng.uniform(-0.3, 0.3, (side - 2, side - 2))
    y[inner] += rng.uniform(-0.3, 0.3, (side - 2, side - 2))
    scale = 64 / (side - 1)
    screen = np.column_stack([x.ravel() * scale, y.ravel() * scale, np.full(side**2, 2.0)])
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + side, corner + 1], 1),
            np.stack([corner + 1, corner + side, corner + side + 1], 1),
        ]
    ).astype(np.int32)
    found = rasterize(screen, faces, 64, 64, engine=engine)
    assert (found.triangle >= 0).all()
    np.testing.assert_allclose(found.barycentric.sum(-1), 1, atol=1e-6)
    centres = np.indices((64, 64))[::-1].transpose(1, 2, 0) + 0.5
    corners = screen[faces[found.triangle]][..., :2]
    back = np.einsum("hwk,hwkc->hwc", found.barycentric, corners)
    np.testing.assert_allclose(back, centres, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_ties_go_to_the_lower_triangle_and_unusable_corners_drop_theirs(engine: str):
    square = [[0, 0, 2], [0, 8, 2], [8, 8, 2], [8, 0, 2]]
    screen = np.array([*square, [4, 4, -1], [np.nan, 0, 1]], dtype=float)
    faces = np.array([[0, 1, 4], [0, 1, 5], [0, 1, 2], [0, 1, 2], [0, 2, 3]], dtype=np.int32)
    found = rasterize(screen, faces, 8, 8, engine=engine)
    assert set(np.unique(found.triangle)) == {2, 4}
    assert (to_screen_points(screen)[4:] == 0).all()


def test_engine_names(monkeypatch: pytest.MonkeyPatch):
    _, screen, faces = triangle_soup(0)
    with pytest.raises(OmfaError, match="did you mean 'numba'"):
        rasterize(screen, faces, 8, 8, engine="numb")
    monkeypatch.setattr(zbuffer, "has_numba", lambda: False)
    with pytest.raises(OmfaError, match=r"pip install -e '\.\[body\]'"):
        rasterize(screen, faces, 8, 8, engine="numba")
    want = rasterize(screen, faces, WIDTH, HEIGHT, engine="numpy")
    np.testing.assert_array_equal(rasterize(screen, faces, WIDTH, HEIGHT).triangle, want.triangle)


def test_vertex_normals_of_a_tetrahedron_point_outwards_and_lone_vertices_have_none():
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [9, 9, 9]], float)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], dtype=np.int32)
    normals = compute_vertex_normals(vertices, faces)
    np.testing.assert_allclose(normals[:4], vertices[:4] / np.sqrt(3), atol=1e-12)
    assert (normals[4] == 0).all()
