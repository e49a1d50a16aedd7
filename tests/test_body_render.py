"""What pose maps look like, and that both backends draw the same ones."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from omfa_jax.body import render_backends
from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import Camera, make_look_at_camera
from omfa_jax.body.pose_styles import STYLES, make_palette
from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX, PARTS
from omfa_jax.core.errors import OmfaError

BACKENDS = ["zbuffer", "pyrender"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "pyrender" and render_backends.find_pyrender_failure():
        pytest.skip(
            f"pyrender does not draw on this machine: {render_backends.find_pyrender_failure()}"
        )
    return request.param


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


def sphere() -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere at the world's origin, faces counter-clockwise from outside."""
    rings, around = 40, 80
    polar, azimuth = np.meshgrid(
        np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, around, endpoint=False)
    )
    points = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.cos(polar), -np.sin(polar) * np.sin(azimuth)], -1
    )
    index = np.arange(rings * around).reshape(around, rings)
    a, b = index[:, :-1].ravel(), index[:, 1:].ravel()
    c, d = np.roll(index, -1, 0)[:, :-1].ravel(), np.roll(index, -1, 0)[:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([c, b, d], 1)])
    return points.reshape(-1, 3), faces.astype(np.int32)


def sphere_camera() -> Camera:
    return make_look_at_camera((3, 1, 4), (0, 0, 0), focal_px=220.0, width_px=121, height_px=141)


def test_normals_are_red_to_the_right_green_upwards_blue_to_the_viewer(backend: str):
    picture = render(*sphere(), sphere_camera(), backend=backend).astype(int)
    assert picture.shape == (141, 121, 3)
    seen = np.argwhere(picture.max(-1) > 0)
    (top, left), (bottom, right) = seen.min(0) + 2, seen.max(0) - 2
    y, x = 70, 60
    assert np.abs(picture[y, x] - [128, 128, 255]).max() <= 3
    # at the rim of the sphere the normal lies across the line of sight
    assert picture[y, right, 0] > 235 and picture[y, left, 0] < 20
    assert picture[top, x, 1] > 235 and picture[bottom, x, 1] < 20
    assert np.abs(picture[[y, y], [left, right], 1] - 128).max() < 8
    assert (picture[0, 0] == 0).all(), "the background is black"


def test_a_turned_camera_sees_the_same_sphere(backend: str):
    front = make_look_at_camera((0, 0, 5), (0, 0, 0), focal_px=220.0, width_px=121, height_px=141)
    below = make_look_at_camera(
        (0, -4.9, 1), (0, 0, 0), focal_px=220.0, width_px=121, height_px=141
    )
    one, other = (render(*sphere(), c, backend=backend).astype(int) for c in (front, below))
    assert np.median(np.abs(one - other)[one.max(-1) > 0]) <= 2


def test_back_faces_are_not_drawn(backend: str):
    vertices, faces = sphere()
    inside_out = np.ascontiguousarray(faces[:, ::-1])
    # of an inside-out sphere only the far half shows
    picture = render(vertices, inside_out, sphere_camera(), backend=backend)
    assert np.abs(picture[70, 60].astype(int) - [128, 128, 255]).max() <= 4
    with_near_half = render(vertices, faces[: len(faces) // 2], sphere_camera(), backend=backend)
    assert with_near_half.any()


def body_view(model: BodyModel, turn: float = 0.0) -> tuple[np.ndarray, Camera]:
    vertices, _ = forward(model, make_neutral_params().replace(global_orient=[0, turn, 0]))
    camera = make_look_at_camera(
        (0, -0.3, 4), (0, -0.3, 0), focal_px=1500.0, width_px=768, height_px=1024
    )
    return vertices, camera


def test_parts_have_exact_distinct_colours_and_left_is_not_right(model: BodyModel, backend: str):
    vertices, camera = body_view(model)
    picture = render(vertices, model.faces, camera, "parts", backend=backend, body=model)
    table = np.round(make_palette()[: len(PARTS)] * 255).astype(int)
    neighbours = [np.roll(picture, step, axis) for axis in (0, 1) for step in (-1, 1)]
    flat = np.all([(near == picture).all(-1) for near in neighbours], axis=0)
    flat &= picture.max(-1) > 0
    colors, counts = np.unique(picture[flat], axis=0, return_counts=True)
    nearest = np.abs(colors[counts > 20].astype(int)[:, None] - table[None]).max(-1)
    assert (nearest.min(1) <= 1).all(), "no area has a blend of two parts"
    assert len(set(nearest.argmin(1))) >= 18
    assert flat.sum() > 0.8 * (picture.max(-1) > 0).sum()
    (x, y), (mirror_x, _) = camera.project(np.array([[0.3, 0.1, 0], [-0.3, 0.1, 0]]))[0].astype(int)
    want = table[[PARTS.index("left_shoulder"), PARTS.index("right_shoulder")]]
    assert np.abs(picture[[y, y], [x, mirror_x]].astype(int) - want).max() <= 1


def test_positions_are_those_of_the_rest_pose(model: BodyModel, backend: str):
    colours = []
    for turn in (0.0, 0.4):
        vertices, camera = body_view(model, turn)
        picture = render(vertices, model.faces, camera, "positions", backend=backend, body=model)
        joints = forward(model, make_neutral_params().replace(global_orient=[0, turn, 0]))[1]
        names = ("pelvis", "neck", "left_shoulder", "right_shoulder")
        (columns, rows) = camera.project(joints[[JOINT_INDEX[n] for n in names]])[0].T.astype(int)
        colours.append(picture[rows, columns].astype(int))
    (pelvis, neck, left, right), _ = colours
    # knots of the scales: the centre line, the shoulder joints, pelvis and neck
    assert np.abs(np.array([pelvis[0], neck[0]]) - 127.5).max() <= 3
    assert abs(left[0] - 0.75 * 255) <= 4 and abs(right[0] - 0.25 * 255) <= 4
    assert abs(pelvis[1] - 0.2 * 255) <= 4 and abs(neck[1] - 0.8 * 255) <= 4
    # a turned body shows nearly the same points at the same joints
    assert np.abs(colours[0] - colours[1])[:2].max() <= 40
    front, back = (
        render(v, model.faces, c, "positions", backend=backend, body=model)
        for v, c in (body_view(model, 0.0), body_view(model, np.pi))
    )
    assert np.median(front[front.max(-1) > 0][:, 2]) > np.median(back[back.max(-1) > 0][:, 2]) + 20


def test_palette_colours_are_far_apart():
    colors = make_palette() * 255
    assert len(np.unique(colors, axis=0)) == len(colors) == 56
    used = colors[: len(PARTS)]
    distance = np.abs(used[:, None] - used[None]).max(-1) + 999 * np.eye(len(used))
    assert distance.min() >= 80
    assert (colors.max(1) > 150).all(), "none is mistaken for the black background"


def test_shaded_is_grey_and_brightest_towards_the_light(backend: str):
    picture = render(*sphere(), sphere_camera(), "shaded", backend=backend).astype(int)
    assert (np.ptp(picture, axis=-1) <= 1).all()
    level = picture[:, :, 0]
    y, x = np.unravel_index(level.argmax(), level.shape)
    assert y < 70 and x > 60, "the light comes from the upper right"
    assert level[100, 35] < level[50, 75]


def interior(pictures: list[np.ndarray], margin_px: int = 2) -> np.ndarray:
    inside = np.all([picture.max(-1) > 0 for picture in pictures], axis=0)
    for _ in range(margin_px):
        shifted = [np.roll(inside, step, axis) for axis in (0, 1) for step in (-1, 1)]
        inside = inside & np.all(shifted, axis=0)
    return inside


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("turn", [0.0, 2.2])
def test_backends_agree(model: BodyModel, style: str, turn: float):
    if render_backends.find_pyrender_failure():
        pytest.skip(
            f"pyrender does not draw on this machine: {render_backends.find_pyrender_failure()}"
        )
    vertices, camera = body_view(model, turn)
    pictures = [
        render(vertices, model.faces, camera, style, backend=name, body=model) for name in BACKENDS
    ]
    inside = interior(pictures)
    difference = np.abs(pictures[0].astype(int) - pictures[1]).max(-1)[inside]
    assert inside.sum() > 50_000
    assert np.median(difference) <= 1
    assert (difference <= 8).mean() >= 0.98
    outline = (pictures[0].max(-1) > 0) != (pictures[1].max(-1) > 0)
    assert outline.sum() < 0.01 * inside.sum()


def test_pyrender_is_reused_at_every_size(model: BodyModel):
    if render_backends.find_pyrender_failure():
        pytest.skip(
            f"pyrender does not draw on this machine: {render_backends.find_pyrender_failure()}"
        )
    vertices, camera = body_view(model)
    first = render(vertices, model.faces, camera, backend="pyrender")
    small = camera.resize(90, 120)
    assert render(vertices, model.faces, small, backend="pyrender").shape == (120, 90, 3)
    np.testing.assert_array_equal(render(vertices, model.faces, camera, backend="pyrender"), first)
    assert render_backends._renderer.cache_info().currsize == 1


def test_pyrender_draws_in_any_thread(model: BodyModel):
    if render_backends.find_pyrender_failure():
        pytest.skip(
            f"pyrender does not draw on this machine: {render_backends.find_pyrender_failure()}"
        )
    vertices, camera = body_view(model)
    first = render(vertices, model.faces, camera, backend="pyrender")
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(render, vertices, model.faces, camera, backend="pyrender") for _ in range(6)
        ]
    for job in jobs:
        np.testing.assert_array_equal(job.result(), first)
    np.testing.assert_array_equal(render(vertices, model.faces, camera, backend="pyrender"), first)


def test_auto_falls_back_once_on_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(
        render_backends, "find_pyrender_failure", lambda: "ImportError: no such driver"
    )
    render_backends._log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [render_backends.resolve_backend("auto") for _ in range(3)] == ["zbuffer"] * 3
    assert len(caplog.records) == 1 and "no such driver" in caplog.text
    with pytest.raises(OmfaError, match=r"no such driver.*--backend zbuffer"):
        render_backends.resolve_backend("pyrender")
    monkeypatch.setattr(render_backends, "find_pyrender_failure", lambda: None)
    monkeypatch.setattr(render_backends, "is_on_gpu", lambda: True)
    assert render_backends.resolve_backend("auto") == "pyrender"


def test_unknown_names_get_a_hint(model: BodyModel):
    vertices, camera = body_view(model)
    with pytest.raises(OmfaError, match="did you mean 'normals'"):
        render(vertices, model.faces, camera, "normal", backend="zbuffer")
    with pytest.raises(OmfaError, match="did you mean 'pyrender'"):
        render(vertices, model.faces, camera, backend="pyrenderer")
    with pytest.raises(OmfaError, match="needs the body model of these 13718"):
        render(vertices, model.faces, camera, "parts", backend="zbuffer")
