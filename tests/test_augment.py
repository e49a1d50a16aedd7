"""Augmentation: aligned maps stay aligned, mirrored pose maps are what a mirrored body gives."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.body import render_backends
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_styles import PaintedMesh, paint
from omfa_jax.body.smplx_forward import forward
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.augment import (
    Augmentation,
    AugmentSettings,
    Move,
    adjust_colors,
    apply_move,
    sample_augmentation,
)
from omfa_jax.data.pipeline.decode_record import decode_record
from omfa_jax.data.pipeline.grain_pipeline import (
    PipelineSettings,
    make_eval_iterator,
    make_train_iterator,
)
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.pipeline.pose_flip import flip_pose_map
from omfa_jax.data.records.record_schema import Record

SLOTS = {"garment": (128, 96), "person": (128, 96), "face": (64, 64)}
TINY = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
TASKS = (Task("try_on", ("person",), 0.5, ""), Task("try_off", ("garment",), 0.5, ""))
EVERYTHING = AugmentSettings(0.5, (0.7, 1.6), 0.15, 0.2, 0.2, 0.2)
# the landmark and the face box around it, in the photo's pixels; the box is not centred on it
MARK_PX, BOX_PX = (140.0, 62.0), (110.0, 40.0, 174.0, 104.0)


def _dotted(height_px, width_px, x, y, radius):
    """Return a picture whose green is 0 but for a soft disc about (x, y) in pixels."""
    row, column = np.indices((height_px, width_px)) + 0.5
    disc = np.clip(radius + 0.5 - np.hypot(column - x, row - y), 0, 1)
    picture = np.empty((height_px, width_px, 3), np.uint8)
    picture[:] = (120, 0, 130)
    picture[..., 1] = np.round(250 * disc)
    return picture


def _centre(picture):
    """Return the disc's centre (x, y) in pixels, None unless all of it is in the picture."""
    green = np.clip(picture[..., 1].astype(float) - 20, 0, None) * (picture[..., 0] < 200)
    edge = np.concatenate([green[0], green[-1], green[:, 0], green[:, -1]])
    if green.max() < 120 or edge.max() > 20:
        return None
    row, column = np.indices(green.shape) + 0.5
    return np.array([(green * column).sum(), (green * row).sum()]) / green.sum()


def _record():
    x, y = MARK_PX
    return Record(
        key="0",
        split="train",
        person=images.encode_png(_dotted(256, 192, x, y, 8)),
        height_px=256,
        width_px=192,
        garment=images.encode_png(_dotted(200, 150, 75, 100, 9)),
        garment_source="in_shop",
        category="upper",
        has_face=True,
        face_box_px=BOX_PX,
        has_pose=True,
        pose=images.encode_png(_dotted(128, 96, x / 2, y / 2, 4)),  # half the photo's size
        unpaired_garment_key="",
        unpaired_garment=b"",
    )


def test_a_landmark_stays_aligned_in_person_pose_map_and_face_box():
    record, seen, flips = _record(), 0, set()
    settings = AugmentSettings(flip_prob=0.5, scale=(0.7, 1.6), shift=0.15)
    for seed in range(60):
        change = sample_augmentation(settings, np.random.default_rng(seed))
        decoded = decode_record(record, SLOTS, change=change, pose_style="normals")
        person, pose, face = (_centre(np.asarray(decoded[n])) for n in ("person", "pose", "face"))
        assert face is not None  # cut out before the photo moves, so always there
        # from the face's slot to the photo, mirrored if all is, then by the person's move
        x, y = np.array(BOX_PX[:2]) + face  # the box has the slot's size
        if change.flip:
            x = BOX_PX[0] + (64 - face[0])
            x = 192 - x
        else:
            assert abs(x - MARK_PX[0]) < 1 and abs(y - MARK_PX[1]) < 1
        frame = np.array([96, 128])
        where = np.array([x, y]) / 2
        where = (where - frame / 2) * change.person.scale + frame / 2
        where += np.array(change.person.shift) * frame
        if person is None:
            continue
        assert pose is not None
        assert np.abs(person - pose).max() < 1 and np.abs(person - where).max() < 1
        seen += 1
        flips.add(change.flip)
    assert seen > 40 and flips == {True, False}


def test_the_garment_moves_on_its_own_and_flips_with_all():
    record = _record()
    settings = AugmentSettings(flip_prob=1.0, scale=(0.8, 1.25), shift=0.1)
    offsets = []
    for seed in range(10):
        change = sample_augmentation(settings, np.random.default_rng(seed))
        assert change.flip and change.garment != change.person
        garment = _centre(np.asarray(decode_record(record, SLOTS, change=change)["garment"]))
        assert garment is not None
        offsets.append(garment - (48, 64))
        expected = np.array(change.garment.shift) * (96, 128)
        assert np.abs(offsets[-1] - expected).max() < 1
    assert np.ptp(offsets, axis=0).min() > 3


def test_nothing_switched_on_changes_nothing():
    record, still = _record(), AugmentSettings()
    assert not still.active and still.flip_prob == 0
    change = sample_augmentation(still, np.random.default_rng(0))
    assert change == Augmentation()
    for name, value in decode_record(record, SLOTS).items():
        np.testing.assert_array_equal(value, decode_record(record, SLOTS, change=change)[name])


def test_moves_crop_and_leave_the_fill():
    picture = np.full((64, 48, 3), 90, np.uint8)
    shrunk = apply_move(picture, (64, 48), 255, Move(0.5))
    assert (shrunk[16:48, 12:36] == 90).all()
    outside = np.ones((64, 48), bool)
    outside[16:48, 12:36] = False
    assert (shrunk[outside] == 255).all()
    assert (apply_move(picture, (64, 48), 255, Move(2.0)) == 90).all()
    aside = apply_move(picture, (64, 48), 0, Move(1.0, (0.5, 0.0)))
    assert (aside[:, :24] == 0).all() and (aside[:, 24:] == 90).all()
    assert (apply_move(picture, (64, 48), 7, Move(0.5, (0.9, 0.0))) == 7).all()


def test_colour_is_one_for_all_photos_and_leaves_the_pose_map():
    record = _record()
    change = Augmentation(brightness=0.9, contrast=1.1, saturation=0.8)
    plain, coloured = decode_record(record, SLOTS), decode_record(record, SLOTS, change=change)
    np.testing.assert_array_equal(plain["pose"], coloured["pose"])
    for name in ("person", "garment", "face"):
        np.testing.assert_array_equal(coloured[name][-1, -1], coloured["person"][-1, -1])
        assert (coloured[name][-1, -1] != plain[name][-1, -1]).any()
    grey = np.full((2, 2, 3), 100, np.uint8)
    assert (adjust_colors(grey, Augmentation(brightness=1.2)) == 120).all()
    assert (adjust_colors(grey, Augmentation(contrast=2.0)) == 72).all()
    assert (adjust_colors(grey, Augmentation(saturation=0.0)) == 100).all()


@pytest.fixture(scope="module")
def scene():
    params = make_neutral_params().replace(global_orient=[0.1, 0.6, 0.05])
    body = load_body_model()
    vertices = forward(body, params)[0]
    camera = make_look_at_camera(
        (0, -0.3, 4), (0, -0.3, 0), focal_px=330.0, width_px=144, height_px=192
    )
    return body, camera, vertices, vertices * np.array([-1, 1, 1], np.float32)


@pytest.mark.parametrize("style", ["normals", "positions"])
def test_a_mirrored_pose_map_is_the_mirrored_bodys(scene, style):
    body, camera, vertices, mirrored = scene
    drawn = render_backends.draw(
        paint(style, camera.to_camera(vertices), body.faces, body), camera, "zbuffer"
    )
    # a mirrored triangle turns the other way round
    painted = paint(style, camera.to_camera(mirrored), body.faces[:, ::-1], body)
    if style == "positions":
        # what was on the left is on the right now
        colours = np.column_stack([1 - painted.colors[:, 0], painted.colors[:, 1:]])
        painted = PaintedMesh(painted.vertices, painted.faces, colours)
    expected = render_backends.draw(painted, camera, "zbuffer").astype(int)
    error = np.abs(flip_pose_map(drawn, style).astype(int) - expected).max(-1)
    body_px = expected.any(-1)
    inner = body_px.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inner &= np.roll(body_px, (dy, dx), (0, 1))
    assert inner.sum() > 1500 and (error[~body_px] == 0).all()
    # but for gaps narrower than a pixel, between an arm and the trunk
    assert (error[inner] > 1).mean() < 0.005
    # at the edge a pixel is body only in part: red turned round as if it were whole is far off
    edge = body_px & ~inner
    whole = drawn[:, ::-1].astype(int)
    whole[..., 0] = np.where(whole.any(-1), 255 - whole[..., 0], 0)
    taken_as_whole = np.abs(whole - expected).max(-1)[edge].mean()
    assert error[edge].mean() < taken_as_whole / 5
    # the pixels alone are not enough: this is how far off they are
    naive = np.abs(drawn[:, ::-1].astype(int) - expected).max(-1)
    assert naive[inner].mean() > 20 * error[inner].mean()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("augment")
    build_records(tiny.write_raw(root / "raw", {"train": 5, "val": 2}), root / "records")
    return str(root / "records")


def _batches(settings, count=3, batch_size=4):
    arguments = {"split": "train", "batch_size": batch_size, "seed": 1, "tasks": TASKS}
    iterator = make_train_iterator(settings, **arguments)
    return [next(iterator) for _ in range(count)]


def test_augmentation_belongs_to_the_position(records):
    settings = PipelineSettings(records, TINY, pose_style="normals", augment=EVERYTHING)
    small = _batches(settings, count=6, batch_size=2)
    large = _batches(dataclasses.replace(settings, threads=0), count=3, batch_size=4)
    for name in large[0]:
        joined = (np.concatenate([batch[name] for batch in batches]) for batches in (small, large))
        np.testing.assert_array_equal(*joined)
    plain = _batches(dataclasses.replace(settings, augment=AugmentSettings()))
    for batch, other in zip(plain, large, strict=True):
        for name in ("index", "task", "epoch"):
            np.testing.assert_array_equal(batch[name], other[name])
        assert (batch["person"] != other["person"]).any()
    # two epochs: one record in two guises
    rows = {}
    for batch in large:
        for index, person in zip(batch["index"], batch["person"], strict=True):
            rows.setdefault(int(index), []).append(person)
    assert all((a != b).any() for a, b in (found[:2] for found in rows.values() if found[1:]))


def test_evaluation_is_not_augmented(records):
    plain = PipelineSettings(records, TINY, pose_style="normals")
    changed = dataclasses.replace(plain, augment=EVERYTHING, multi_pose_prob=1.0, processes=2)
    arguments = {"split": "val", "batch_size": 2}
    batch, other = (next(make_eval_iterator(s, **arguments)) for s in (plain, changed))
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name])


def test_what_cannot_be_augmented_honestly_is_refused(records, tmp_path):
    flip = AugmentSettings(flip_prob=0.5)
    for style, word in (("parts", "blend"), ("shaded", "light"), ("", "do not state")):
        with pytest.raises(OmfaError, match=f"cannot be flipped.*{word}.*augment.flip_prob=0"):
            _batches(PipelineSettings(records, TINY, pose_style=style, augment=flip))

    def encode(pictures):
        return pictures[:, ::8, ::8]

    write_latents(records, tmp_path / "latents", encode, slots=TINY, vae_id="v")
    settings = PipelineSettings(str(tmp_path / "latents"), TINY, vae_id="v")
    for change in (flip, AugmentSettings(brightness=0.1)):
        with pytest.raises(OmfaError, match="latents, which cannot be augmented"):
            _batches(dataclasses.replace(settings, augment=change))
    wrongs: tuple[tuple[dict[str, Any], str], ...] = (
        ({"flip_prob": 2.0}, "flip_prob: expected a number from 0 to 1"),
        ({"scale": (1.2, 0.8)}, "scale"),
        ({"scale": (1.0,)}, "scale"),
        ({"shift": -0.1}, "shift"),
        ({"contrast": 1.0}, "contrast"),
    )
    for wrong, word in wrongs:
        with pytest.raises(OmfaError, match=f"augment.{word}"):
            AugmentSettings(**wrong)
