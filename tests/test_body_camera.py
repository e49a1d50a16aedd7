"""Cameras, parameters, and the file that holds both."""

from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body.body_file import load_body, save_body
from omfa_jax.body.body_params import PARAM_SHAPES, BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera, make_look_at_camera
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import letterbox


def some_camera() -> Camera:
    rotation = axis_angle_to_matrix(np.array([[0.2, -0.4, 0.1]]))[0]
    return Camera((900.0, 950.0), (300.5, 420.25), 640, 853, rotation, np.array([0.1, -0.2, 3.0]))


def some_params() -> BodyParams:
    rng = np.random.default_rng(3)
    return BodyParams(**{name: rng.normal(size=shape) for name, shape in PARAM_SHAPES.items()})


def test_projection_is_the_pinhole_formula():
    camera = some_camera()
    point = np.array([0.3, 0.2, 0.1])
    x, y, z = camera.rotation @ point + camera.translation
    pixels, depth = camera.project(point[None])
    np.testing.assert_allclose(pixels[0], [900 * x / z + 300.5, 950 * y / z + 420.25])
    np.testing.assert_allclose(depth, [z])


def test_points_behind_the_camera_have_no_pixel():
    camera = make_look_at_camera((0, 0, 2), (0, 0, 0), focal_px=100.0, width_px=64, height_px=64)
    pixels, depth = camera.project(np.array([[0, 0, 5.0], [0, 0, 2.0]]))
    assert np.isnan(pixels).all() and (depth <= 0).all()


def test_looking_at_centres_the_target_with_up_upwards_and_right_to_the_right():
    camera = make_look_at_camera(
        (1, 2, 3), (0.5, 0, -1), focal_px=500.0, width_px=300, height_px=400
    )
    target = np.array([0.5, 0, -1])
    pixels, depth = camera.project(np.stack([target, target + [0, 0.1, 0], target + [0.1, 0, 0]]))
    np.testing.assert_allclose(pixels[0], [150, 200], atol=1e-9)
    np.testing.assert_allclose(depth[0], np.linalg.norm([0.5, 2, 4]))
    assert pixels[1, 1] < 200 and abs(pixels[1, 0] - 150) < 1e-9
    assert pixels[2, 0] > 150
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.rotation) > 0
    with pytest.raises(OmfaError, match="parallel to up"):
        make_look_at_camera((0, 1, 0), (0, 0, 0), focal_px=1.0, width_px=2, height_px=2)


@pytest.mark.parametrize("size_px", [(192, 256), (768, 1024), (101, 333), (640, 853)])
def test_resized_camera_sees_the_letterboxed_photo(size_px: tuple[int, int]):
    camera = some_camera()
    photo = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
    photo[500:520, 120:140] = 255
    # the point whose pixel is the middle of the block, 3 m away
    x = (130 - camera.center_px[0]) / camera.focal_px[0] * 3
    y = (510 - camera.center_px[1]) / camera.focal_px[1] * 3
    point = camera.rotation.T @ (np.array([x, y, 3.0]) - camera.translation)
    boxed = letterbox(photo, size_px[1], size_px[0], fill=0)[:, :, 0].astype(float)
    row, column = np.indices(boxed.shape) + 0.5
    seen = [(boxed * column).sum() / boxed.sum(), (boxed * row).sum() / boxed.sum()]
    small = camera.resize(*size_px)
    assert (small.width_px, small.height_px) == size_px
    np.testing.assert_allclose(small.project(point[None])[0][0], seen, atol=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"focal_px": (0.0, 1.0)}, "focal_px"),
        ({"width_px": 0}, "image_size_px"),
        ({"rotation": np.eye(3) * 2}, "rotation matrix"),
        ({"rotation": np.diag([1.0, 1, -1])}, "rotation matrix"),
        ({"translation": np.array([0, np.nan, 0])}, "cam_translation"),
    ],
)
def test_bad_cameras_are_refused(change: dict, words: str):
    good = vars(some_camera())
    with pytest.raises(OmfaError, match=words):
        Camera(**(good | change))


def test_params_take_any_shape_of_the_right_size_and_nothing_else():
    batch_of_one = {name: np.ones((1, *shape)) for name, shape in PARAM_SHAPES.items()}
    params = BodyParams(**batch_of_one | {"body_pose": np.ones(63)})
    assert params.body_pose.shape == (21, 3) and params.betas.dtype == np.float32
    with pytest.raises(OmfaError, match=r"betas: expected shape \(10,\), got \(16,\)"):
        make_neutral_params().replace(betas=np.zeros(16))
    with pytest.raises(OmfaError, match="transl: expected finite"):
        make_neutral_params().replace(transl=[0, np.inf, 0])
    with pytest.raises(OmfaError, match="did you mean 'betas'"):
        make_neutral_params().replace(beta=np.zeros(10))
    with pytest.raises(OmfaError, match="missing expression"):
        BodyParams(betas=np.zeros(10))
    with pytest.raises(OmfaError, match="jaw_pose: expected numbers"):
        make_neutral_params().replace(jaw_pose="open")


def test_file_round_trip_is_exact(tmp_path: Path):
    params, camera = some_params(), some_camera()
    save_body(tmp_path / "a.npz", params, camera)
    loaded, loaded_camera = load_body(tmp_path / "a.npz")
    for name in PARAM_SHAPES:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(params, name))
    for name, value in vars(camera).items():
        np.testing.assert_array_equal(getattr(loaded_camera, name), value)
    stored = np.load(tmp_path / "a.npz")
    assert {"focal_px", "center_px", "image_size_px", "cam_rotation", "cam_translation"} < {*stored}
    np.testing.assert_array_equal(stored["image_size_px"], [640, 853])


def damaged(path: Path, how: str) -> None:
    save_body(path, some_params(), some_camera())
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "flipped":
        path.write_bytes(whole.replace(b"NUMPY", b"BUMPY", 1))
    elif how == "missing":
        np.savez(path, **{k: v for k, v in arrays.items() if k not in ("betas", "focal_px")})
    elif how == "wrong size":
        np.savez(path, **arrays | {"body_pose": np.zeros((23, 3))})
    elif how == "bad size":
        np.savez(path, **arrays | {"image_size_px": np.array([640])})
    elif how == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "absent":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "not a complete .npz"),
        ("flipped", "not a complete .npz"),
        ("missing", r"missing betas, focal_px \(15 keys are required\)"),
        ("wrong size", r"body_pose: expected shape \(21, 3\), got \(23, 3\)"),
        ("bad size", r"image_size_px: expected 2 numbers"),
        ("one array", "single array"),
        ("empty", "not a complete .npz"),
        ("absent", "found nothing"),
    ],
)
def test_damaged_files_give_one_line_with_the_path(tmp_path: Path, how: str, words: str):
    path = tmp_path / "00001_00.npz"
    damaged(path, how)
    with pytest.raises(OmfaError, match=words) as caught:
        load_body(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
