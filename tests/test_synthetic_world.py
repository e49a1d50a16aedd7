"""The synthetic world: photos, shop photos, and all that is said to be known about them."""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError

pytest.importorskip("numba")
from omfa_jax.synthetic import World, mesh_parts, numba_kernels, random_poses

HEIGHT, WIDTH = 128, 96
PEOPLE = range(12)
UPPER = mesh_parts.CIHP["upper"]


@pytest.fixture(scope="module")
def world():
    return World(7, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def exact_world():
    """Each pixel shows one thing: its label holds for all of it."""
    return World(7, HEIGHT, WIDTH, supersample=1)


def take(world, i, garment=None, pose=None):
    garment, pose = garment or world.get_garment(i), pose or world.get_pose(i)
    return world.render_photo(world.get_person(i), garment, pose, world.get_view(i))


@pytest.fixture(scope="module")
def photos(world):
    return [take(world, i) for i in PEOPLE]


def dilated(mask):
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any(
        [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0
    )


def eroded(mask):
    return ~dilated(~mask)


def test_same_seed_same_bytes_in_any_order(world, photos):
    again = World(7, HEIGHT, WIDTH)
    for i in (3, 0):
        photo = take(again, i)
        np.testing.assert_array_equal(photo.image, photos[i].image)
        np.testing.assert_array_equal(photo.parse, photos[i].parse)
        np.testing.assert_array_equal(photo.keypoints, photos[i].keypoints)
    shop = again.render_garment(again.get_garment(5))[0]
    np.testing.assert_array_equal(shop, world.render_garment(world.get_garment(5))[0])


def test_other_seed_and_other_number_differ(photos):
    other = take(World(8, HEIGHT, WIDTH), 0)
    assert (other.image != photos[0].image).mean() > 0.3
    assert (photos[1].image != photos[0].image).mean() > 0.3


def test_parse_has_known_labels_and_a_large_garment(photos):
    for photo in photos:
        assert photo.parse.dtype == np.uint8 and photo.parse.shape == (HEIGHT, WIDTH)
        found = set(np.unique(photo.parse))
        assert {0, 2, 5, 9, 13} <= found <= {0, 2, 5, 9, 10, 13, 14, 15}
    shares = [(photo.parse == UPPER).mean() for photo in photos]
    assert np.mean(shares) > 0.22 and min(shares) > 0.12


def test_arms_carry_the_persons_own_sides(world):
    standing = random_poses.RandomPose(0, np.zeros((55, 3), np.float32))
    sleeveless = next(g for g in map(world.get_garment, range(99)) if g.sleeve == "sleeveless")
    photo = take(world, 0, sleeveless, standing)
    # seen from the front, a person's left arm is on the right of the picture
    columns = {side: np.nonzero(photo.parse == mesh_parts.CIHP[f"{side}_arm"])[1] for side in
               ("left", "right")}  # fmt: skip
    assert columns["left"].min() > WIDTH / 2 > columns["right"].max()


def test_the_wall_is_light_and_plain(exact_world):
    for i in PEOPLE:
        photo, wall_rgb = take(exact_world, i), exact_world.get_view(i).wall_rgb
        assert wall_rgb.min() > 0.84
        wall = photo.image[photo.parse == 0]
        np.testing.assert_allclose(wall, np.tile(255 * wall_rgb, (len(wall), 1)), atol=0.51)


def test_worn_color_is_the_shop_color(world):
    for i in PEOPLE:
        garment = world.get_garment(i)
        ground = garment.ground_rgb
        garment = replace(
            garment, pattern="plain", print_rgb=None, sleeve_rgb=None, trim_rgb=ground
        )
        photo = take(world, i, garment)
        shop, mask = world.render_garment(garment)
        shop_rgb = np.median(shop[eroded(mask)], axis=0)
        worn_rgb = np.median(photo.image[eroded(photo.parse == UPPER)], axis=0)
        np.testing.assert_allclose(shop_rgb, 255 * ground, rtol=0.06, atol=3)
        np.testing.assert_allclose(worn_rgb, shop_rgb, rtol=0.15, atol=3)


def test_another_garment_changes_only_the_garment(exact_world):
    for i in PEOPLE:
        photo, other = take(exact_world, i), take(exact_world, i, exact_world.get_garment(i + 1))
        worn = (photo.parse == UPPER) | (other.parse == UPPER)
        np.testing.assert_array_equal(other.image[~worn], photo.image[~worn])
        np.testing.assert_array_equal(other.parse[~worn], photo.parse[~worn])
        assert (other.image[worn] != photo.image[worn]).mean() > 0.4


def test_another_person_or_pose_in_the_garment_is_another_picture(world, photos):
    assert (take(world, 0, pose=world.get_pose(1)).image != photos[0].image).mean() > 0.2
    dressed = world.render_photo(
        world.get_person(1), world.get_garment(0), world.get_pose(0), world.get_view(0)
    )
    assert (dressed.image != photos[0].image).mean() > 0.1


def test_garment_photo_shows_the_whole_garment_on_white(world):
    sleeves = set()
    for i in range(40):
        garment = world.get_garment(i)
        image, mask = world.render_garment(garment)
        sleeves.add(garment.sleeve)
        assert mask.dtype == bool and mask.shape == image.shape[:2] == (HEIGHT, WIDTH)
        rows, columns = np.nonzero(mask)
        assert rows.min() > 1 and rows.max() < HEIGHT - 2
        assert columns.min() > 1 and columns.max() < WIDTH - 2
        # the frame is filled along one side at least
        assert np.ptp(columns) > 0.8 * WIDTH or np.ptp(rows) > 0.8 * HEIGHT
        assert (image[~dilated(mask)] == 255).all()
        assert mask.mean() > 0.18
    assert sleeves == {"sleeveless", "short", "elbow", "long"}


def test_poses_face_the_camera_mostly_and_never_turn_away(world):
    yaw = np.rad2deg([abs(world.get_pose(i).rotations[0, 1]) for i in range(300)])
    assert yaw.max() <= 70
    assert 0.78 < (yaw <= 35).mean() < 0.92


def test_bodies_and_trousers_vary_moderately(world):
    people = [world.get_person(i) for i in range(300)]
    betas = np.stack([person.betas for person in people])
    assert 0.7 < betas.std() < 0.85 and abs(betas.mean()) < 0.05
    rgb = np.stack([person.trousers_rgb for person in people])
    assert rgb.max() < 0.72 and (rgb.max(axis=1) - rgb.min(axis=1)).max() < 0.3
    assert {person.hair_style for person in people} == {"short", "crop", "bob", "long"}


def test_impossible_worlds_are_refused():
    for settings in ((-1, 128, 96), (0, 8, 96)):
        with pytest.raises(OmfaError, match="expected at least 16x16 px and seed >= 0"):
            World(*settings)


def test_without_numba_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    fresh = importlib.util.spec_from_file_location("fresh", numba_kernels.__file__)
    with pytest.raises(OmfaError, match=r"needs numba.*\.\[body\]"):
        fresh.loader.exec_module(importlib.util.module_from_spec(fresh))
