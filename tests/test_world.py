"""The synthetic world: photos, shop photos, and all that is said to be known about them."""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest

from omfa_jax.body.forward import forward
from omfa_jax.body.joints import JOINT_INDEX
from omfa_jax.body.render import render
from omfa_jax.core.errors import OmfaError

pytest.importorskip("numba")
from omfa_jax.data.world import World, compiled, flat, kernels, poses, shells, textures
from omfa_jax.data.world import garments as wardrobe
from omfa_jax.data.world import sheet as sheets

HEIGHT, WIDTH = 128, 96
PEOPLE = range(12)
UPPER, FACE = shells.CIHP["upper"], shells.CIHP["face"]


@pytest.fixture(scope="module")
def world():
    return World(7, HEIGHT, WIDTH)


def take(world, i, garment=None, pose=None):
    garment = world.garment(i if garment is None else garment)
    return world.photo(world.person(i), garment, world.pose(i if pose is None else pose), world.view(i))


@pytest.fixture(scope="module")
def photos(world):
    return [take(world, i) for i in PEOPLE]


def dilated(mask):
    padded = np.pad(mask, 1)
    shifts = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2)]
    return np.any([padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y, x in shifts], axis=0)


def eroded(mask):
    return ~dilated(~mask)


def plain(garment):
    """The garment in one colour, so that any difference is light."""
    ground = garment.ground_rgb
    bare = replace(garment, pattern="plain", print_rgb=None, sleeve_rgb=None, trim_rgb=ground)
    # another number, or the texture painted for this one would be used again
    return replace(bare, index=garment.index + 10**6)


def test_same_seed_same_bytes_in_any_order(world, photos):
    again = World(7, HEIGHT, WIDTH)
    for i in (3, 0):
        photo = take(again, i)
        np.testing.assert_array_equal(photo.image, photos[i].image)
        np.testing.assert_array_equal(photo.parse, photos[i].parse)
        np.testing.assert_array_equal(photo.keypoints, photos[i].keypoints)
    shop = again.garment_photo(again.garment(5))[0]
    np.testing.assert_array_equal(shop, world.garment_photo(world.garment(5))[0])


def test_other_seed_and_other_number_differ(world, photos):
    other = take(World(8, HEIGHT, WIDTH), 0)
    assert (other.image != photos[0].image).mean() > 0.3
    assert (photos[1].image != photos[0].image).mean() > 0.3


def test_parse_has_known_labels_and_a_large_garment(photos):
    for photo in photos:
        assert photo.parse.dtype == np.uint8 and photo.parse.shape == (HEIGHT, WIDTH)
        assert set(np.unique(photo.parse)) <= set(shells.CIHP.values())
        assert {0, 2, 5, 9, 13} <= set(np.unique(photo.parse))
    shares = [(photo.parse == UPPER).mean() for photo in photos]
    assert np.mean(shares) > 0.22 and min(shares) > 0.12


def test_labels_of_arms_are_the_persons_own_sides(world):
    still = poses.Pose(0, np.zeros((55, 3), np.float32))
    person, view = world.person(0), world.view(0)
    sleeveless = next(g for g in map(world.garment, range(99)) if g.sleeve == "sleeveless")
    photo = world.photo(person, sleeveless, still, view)
    columns = np.arange(WIDTH)[None, :].repeat(HEIGHT, axis=0)
    left, right = (columns[photo.parse == shells.CIHP[f"{side}_arm"]] for side in ("left", "right"))
    # seen from the front, a person's left arm is on the right of the picture
    assert left.min() > WIDTH / 2 > right.max()


def test_wall_is_light_and_plain(photos):
    for photo in photos:
        wall = photo.image[eroded(photo.parse == 0)]
        assert wall.min() > 210
        assert (wall.max(axis=0) == wall.min(axis=0)).all()


def test_worn_color_is_the_shop_color(world):
    for i in PEOPLE:
        garment = plain(world.garment(i))
        world._texture.cache_clear()
        world._paint = lambda index, garment=garment: garment.texture(world._texture_px)
        photo = take_in(world, i, garment)
        shop, mask = world.garment_photo(garment)
        worn = np.median(photo.image[eroded(photo.parse == UPPER)], axis=0)
        flat_color = np.median(shop[eroded(mask)], axis=0)
        np.testing.assert_allclose(flat_color, 255 * garment.ground_rgb, rtol=0.06, atol=3)
        np.testing.assert_allclose(worn, flat_color, rtol=0.15, atol=4)


def take_in(world, i, garment):
    return world.photo(world.person(i), garment, world.pose(i), world.view(i))
