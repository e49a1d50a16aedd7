"""The synthetic world against oracles: the body layer, the cameras, and the garment's sheet."""

import numpy as np
import pytest

from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX

pytest.importorskip("numba")
from omfa_jax.synthetic import World, flat_garment, garment_sheet, mesh_parts, textures
from omfa_jax.synthetic.garments import Garment
from omfa_jax.synthetic.raster_kernels import SHIRT
from omfa_jax.synthetic.scene import load_scene

HEIGHT, WIDTH = 256, 192
PEOPLE = range(8)
UPPER, FACE = mesh_parts.CIHP["upper"], mesh_parts.CIHP["face"]


@pytest.fixture(scope="module")
def world():
    return World(11, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def photos(world):
    return [
        world.render_photo(
            world.get_person(i), world.get_garment(i), world.get_pose(i), world.get_view(i)
        )
        for i in PEOPLE
    ]


def test_skin_stands_where_the_body_model_puts_it(photos):
    scene = load_scene()
    marks = mesh_parts.find_landmarks(scene.model)
    for photo in photos:
        vertices, joints = scene.pose_vertices(photo.params, 0.5)
        expected_vertices, expected_joints = forward(scene.model, photo.params)
        np.testing.assert_allclose(joints, expected_joints, atol=2e-5)
        for name, vertex in marks.items():
            found = vertices[scene.landmarks[name]]
            np.testing.assert_allclose(found, expected_vertices[vertex], atol=1e-4)


def test_loose_clothes_stand_farther_out(photos):
    scene = load_scene()
    tight, loose = (scene.pose_vertices(photos[0].params, fit)[0] for fit in (0.0, 1.0))
    moved = np.linalg.norm(loose - tight, axis=1)
    used = np.unique(scene.faces["short"][scene.materials["short"] == SHIRT])
    assert 0.025 < moved[used].max() < 0.035
    assert moved[np.setdiff1d(np.arange(len(moved)), used)].max() < 1e-6


def test_saved_camera_reproduces_the_silhouette(photos):
    model = load_scene().model
    for photo in photos:
        vertices, _ = forward(model, photo.params)
        body = render(vertices, model.faces, photo.camera, backend="zbuffer").any(axis=2)
        person = photo.parse > 0
        overlap = (body & person).sum() / (body | person).sum()
        assert overlap >= 0.75
        # the body is inside the clothes and hair, up to the rim of a pixel
        assert (body & person).sum() / body.sum() > 0.97


def test_keypoints_are_the_projected_joints(photos):
    model = load_scene().model
    rows = {2: "right_shoulder", 3: "right_elbow", 5: "left_shoulder", 7: "left_wrist"}
    for photo in photos:
        assert photo.keypoints.shape == (25, 3)
        _, joints = forward(model, photo.params)
        pixels, _ = photo.camera.project(joints)
        for row, joint in rows.items():
            x, y = pixels[JOINT_INDEX[joint]]
            inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
            expected = (x, y, 1) if inside else (0, 0, 0)
            np.testing.assert_allclose(photo.keypoints[row], expected, atol=0.02)
        seen = photo.keypoints[photo.keypoints[:, 2] > 0]
        assert len(seen) >= 12
        assert (seen[:, :2] >= 0).all() and (seen[:, :2] < (WIDTH, HEIGHT)).all()


def test_frame_goes_from_the_head_to_the_thighs(photos):
    for photo in photos:
        top = np.nonzero(np.isin(photo.parse, (2, FACE)).any(axis=1))[0][0]
        assert 0 <= top < 0.12 * HEIGHT
        hips, knees = photo.keypoints[8], photo.keypoints[[10, 13]]
        assert 0.8 * HEIGHT < hips[1] < HEIGHT and hips[2] == 1
        assert not knees.any()


def test_nose_and_eyes_lie_in_the_face(photos):
    for photo in photos:
        for row in (0, 15, 16):
            x, y, confidence = photo.keypoints[row]
            near = photo.parse[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
            assert confidence == 1 and FACE in near
        x, y, _ = photo.keypoints[0]
        assert photo.parse[int(y), int(x)] == FACE


def sheet_rgb(garment, texture, x, y):
    return np.array(
        garment_sheet.compute_torso_color(texture, garment.cut, garment.trim_rgb, x, y, True)
    )


class Ramp(Garment):
    """A garment whose colour tells the sheet's x (red) and y (green): patterns are symmetric."""

    def make_texture(self, side):
        x, y = textures.make_axes(side)
        plane = np.broadcast_to(0.5 + x, (side, side)), np.broadcast_to(0.5 + y, (side, side))
        return np.stack([np.stack([*plane, np.full((side, side), 0.5)], axis=-1)] * 3)


def patterned(world):
    """A ramp, then garments whose front shows a pattern or a print, with their own texture."""
    garments = [world.get_garment(i) for i in range(60)]
    chosen = [g for g in garments if g.pattern != "plain" or g.print_rgb is not None][:12]
    ramp = Ramp(**vars(chosen[0]))
    return [(garment, garment.make_texture(384)) for garment in (ramp, *chosen)]


def contrast(found, expected):
    """Correlation of two lists of colours about their means: 1 for the same pattern."""
    found, expected = found - found.mean(axis=0), expected - expected.mean(axis=0)
    return (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum())


def test_shop_photo_shows_the_sheet(world):
    for garment, texture in patterned(world):
        image, mask = world.render_garment(garment)
        scale, middle_y = flat_garment.compute_frame(garment.cut, HEIGHT, WIDTH)
        ys = np.linspace(garment.cut[garment_sheet.HEM_Y] + 0.02, 0.15, 40)
        xs, heights = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.15, 0.15, 31), ys))
        columns = (xs * scale + WIDTH / 2).astype(int)
        rows = ((middle_y - heights) * scale + HEIGHT / 2).astype(int)
        # what a pixel shows is the sheet at its centre
        xs = (columns + 0.5 - WIDTH / 2) / scale
        heights = middle_y - (rows + 0.5 - HEIGHT / 2) / scale
        points = list(zip(xs, heights, strict=True))
        inside = np.array(
            [garment_sheet.compute_neck_distance(x, y, True, garment.cut) > 0 for x, y in points]
        )
        assert mask[rows, columns][inside].all()
        expected = np.array([sheet_rgb(garment, texture, x, y) for x, y in points])[inside]
        assert contrast(image[rows, columns][inside] / 255.0, expected) > 0.975


def test_person_wears_what_the_sheet_shows(world):
    scene = load_scene()
    worn = np.unique(scene.faces["short"][scene.materials["short"] == SHIRT])
    share, y, front, beyond = scene.attributes[worn, :4].T
    chest = worn[(np.abs(share) < 0.5) & (front > 0.05) & (beyond < 0) & (y > -0.25) & (y < 0.1)]
    facing = next(i for i in range(99) if np.abs(world.get_pose(i).rotations[0, 1]) < 0.1)
    person, pose, view = world.get_person(facing), world.get_pose(facing), world.get_view(facing)
    for garment, texture in patterned(world):
        photo = world.render_photo(person, garment, pose, view)
        vertices, _ = scene.pose_vertices(photo.params, garment.fit)
        pixels, _ = photo.camera.project(vertices[chest])
        columns, rows = pixels.astype(int).T
        points = [
            (p * garment_sheet.compute_half_width(y), y) for p, y in scene.attributes[chest, :2]
        ]
        expected = [sheet_rgb(garment, texture, *point) for point in points]
        cloth = photo.parse[rows, columns] == UPPER
        assert cloth.mean() > 0.6
        found = photo.image[rows, columns][cloth] / 255.0
        assert contrast(found, np.array(expected)[cloth]) > 0.8
        if isinstance(garment, Ramp):
            # the sheet is neither mirrored nor upside down on the body
            assert np.corrcoef(found[:, 0], columns[cloth])[0, 1] > 0.9
            assert np.corrcoef(found[:, 1], rows[cloth])[0, 1] < -0.9


def test_patterns_survive_at_the_smallest_size(world):
    for name, (_, plane) in textures.PATTERNS.items():
        rng = np.random.default_rng(0)
        coverage = np.stack([plane(rng, 192) for _ in range(6)])
        assert coverage.shape == (6, 192, 192)
        assert coverage.min() >= 0 and coverage.max() <= 1
        if name == "plain":
            assert not coverage.any()
            continue
        # 4 px at 96x128 are 0.034 m, 9 texels here: a pattern that fine would vanish in this mean
        blurred = coverage[:, :189, :189].reshape(6, 27, 7, 27, 7).mean(axis=(2, 4))
        assert blurred.std(axis=(1, 2)).min() > 0.6 * coverage.std(axis=(1, 2)).min()
