"""Latents records: the same keys and order as the pictures, and refused when they do not fit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.checks.check_records import check_records
from omfa_jax.data.pipeline.decode_record import decode_latents, make_float_batch
from omfa_jax.data.pipeline.grain_pipeline import (
    PipelineSettings,
    make_eval_iterator,
    make_train_iterator,
)
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import contact_sheet
from omfa_jax.data.records.latent_moments import pack_moments
from omfa_jax.data.records.record_schema import open_records, read_manifest

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
TASKS = (Task("try_on", ("person",), 0.7, ""), Task("try_off", ("garment",), 0.3, ""))


def encode(pictures):
    """Return block means over 8 x 8 px and their negatives: a VAE with 6 latent channels."""
    b, h, w, _ = pictures.shape
    means = pictures.reshape(b, h // 8, 8, w // 8, 8, 3).mean((2, 4))
    return np.concatenate([means, -means], -1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    raw = tiny.write_raw(root / "raw", {"train": 5, "val": 3})
    (raw / "train/pose/00002_00.png").unlink()
    build_records(raw, root / "records")
    write_latents(
        root / "records", root / "latents", encode, slots=SLOTS, vae_id="means", batch_size=2
    )
    return str(root / "records"), str(root / "latents")


def _batches(settings, count=3):
    iterator = make_train_iterator(settings, split="train", batch_size=4, seed=1, tasks=TASKS)
    return [next(iterator) for _ in range(count)]


def test_manifest_says_how_they_were_made(folders):
    manifest = read_manifest(folders[1])
    assert (manifest["kind"], manifest["splits"]) == ("latents", {"train": 5, "val": 3})
    assert manifest["latents"] == {
        "vae_id": "means",
        "slots": {"garment": [64, 48], "person": [64, 48], "face": [16, 16]},
        "shapes": {
            "garment": [8, 6, 6],
            "person": [8, 6, 6],
            "face": [2, 2, 6],
            "pose": [8, 6, 6],
        },
        "moments": False,
        "stride": 8,
        "channels": 6,
    }


def test_latents_are_the_encoded_batches(folders):
    pictures = [make_float_batch(batch) for batch in _batches(PipelineSettings(folders[0], SLOTS))]
    latents = _batches(PipelineSettings(folders[1], SLOTS, vae_id="means"))
    absent = 0
    for batch, encoded in zip(pictures, latents, strict=True):
        for name in ("index", "task", "has_pose"):
            np.testing.assert_array_equal(batch[name], encoded[name])
        for name in ("garment", "person", "face"):
            assert encoded[f"{name}_latents"].dtype == np.float16
            expected = encode(batch[name]).astype(np.float16)
            np.testing.assert_array_equal(encoded[f"{name}_latents"], expected)
        for row, has_pose in enumerate(batch["has_pose"]):
            expected = encode(batch["pose"][row : row + 1])[0] if has_pose else np.zeros((8, 6, 6))
            absent += not has_pose
            np.testing.assert_allclose(encoded["pose_latents"][row], expected, atol=1e-3)
    assert absent


def test_moments_are_stored_and_drawn_from(folders, tmp_path):
    """The mean by default; with a generator, a draw of the posterior that was stored."""

    def moments(pictures):
        means = encode(pictures)
        return means, 0.5 + np.abs(means)

    out = tmp_path / "moments"
    manifest = write_latents(folders[0], out, moments, slots=SLOTS, vae_id="means", batch_size=2)
    assert manifest["latents"]["moments"] and manifest["latents"]["channels"] == 6
    assert check_records(out).faults == ()
    plain = open_records(folders[1], "train")[0]
    record = open_records(out, "train")[0]
    shapes = manifest["latents"]["shapes"]
    mean: Any = decode_latents(plain, shapes)
    rng = np.random.default_rng(0)
    drawn = [decode_latents(record, shapes, rng=rng) for _ in range(400)]
    for name in ("garment_latents", "person_latents", "face_latents"):
        np.testing.assert_array_equal(decode_latents(record, shapes)[name], mean[name])
        np.testing.assert_array_equal(decode_latents(plain, shapes, rng=rng)[name], mean[name])
        deviation = 0.5 + np.abs(mean[name])
        normal = (np.stack([draw[name] for draw in drawn]) - mean[name]) / deviation
        # 5 standard errors, of 288 numbers with 400 draws each
        assert np.abs(normal.mean(0)).max() < 5 / 20
        assert np.abs(normal.std(0) - 1).max() < 5 / 20 / 2**0.5
    assert not decode_latents(open_records(out, "train")[2], shapes, rng=rng)["pose_latents"].any()


def test_the_stored_deviation_is_the_posteriors(tmp_path):
    """At the deviations of SDXL's VAE float16 keeps 1e-3 of them; 1e-7 of the latents below."""
    mean = np.zeros((1, 1, 5), np.float32)
    std = np.exp(0.5 * np.array([-30, -20, -17, -10, 20], np.float32)).reshape(mean.shape)
    stored = np.frombuffer(pack_moments(mean, std), "<f2").reshape(2, 5)[1].astype(np.float32)
    np.testing.assert_allclose(stored, std.ravel(), rtol=1e-3, atol=1e-7)


def test_encoders_must_agree_with_themselves(folders, tmp_path):
    def wrong(pictures):
        return encode(pictures), encode(pictures)[..., :1]

    with pytest.raises(OmfaError, match="mean and deviation of equal shape"):
        write_latents(folders[0], tmp_path / "out", wrong, slots=SLOTS, vae_id="v")


def test_keys_stay(folders):
    for split, count in (("train", 5), ("val", 3)):
        source = open_records(folders[1], split)
        assert [record.key for record in source] == [f"{i:05d}_00" for i in range(count)]
    settings = PipelineSettings(folders[1], SLOTS, vae_id="means")
    batches = list(make_eval_iterator(settings, split="val", batch_size=2))
    assert batches[1]["valid"].tolist() == [True, False]
    assert batches[1]["person_latents"].shape == (2, 8, 6, 6)


def test_other_vae_or_slots_are_refused(folders):
    fitting = PipelineSettings(folders[1], SLOTS, vae_id="means")
    other_vae = dataclasses.replace(fitting, vae_id="sdxl")
    other_slots = dataclasses.replace(fitting, slots={**SLOTS, "face": (32, 32)})
    for settings, word in (
        (other_vae, "expected latents of VAE sdxl, found means"),
        (other_slots, "slots"),
    ):
        with pytest.raises(OmfaError, match=word):
            _batches(settings)
        with pytest.raises(OmfaError, match=word):
            make_eval_iterator(settings, split="val", batch_size=1)
    with pytest.raises(OmfaError, match="no unpaired"):
        make_eval_iterator(fitting, split="val", batch_size=1, unpaired=True)


def test_splits_can_be_chosen_and_folders_are_not_overwritten(folders, tmp_path):
    arguments = {"slots": SLOTS, "vae_id": "means"}
    written = write_latents(folders[0], tmp_path / "out", encode, splits=("val",), **arguments)
    assert written["splits"] == {"val": 3}
    with pytest.raises(OmfaError, match="--overwrite"):
        write_latents(folders[0], tmp_path / "out", encode, **arguments)
    with pytest.raises(OmfaError, match="did you mean 'val'"):
        write_latents(folders[0], tmp_path / "new", encode, splits=("valid",), **arguments)


def test_latents_of_latents_and_sheets_of_latents_are_refused(folders, tmp_path):
    with pytest.raises(OmfaError, match="image records"):
        write_latents(folders[1], tmp_path / "out", encode, slots=SLOTS, vae_id="means")
    with pytest.raises(OmfaError, match="image records"):
        contact_sheet.write_contact_sheet(folders[1], tmp_path / "sheet.png", split="train")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_latents_that_do_not_fit_float16_leave_nothing(folders, tmp_path, value):
    def broken(pictures):
        latents = encode(pictures)
        latents[-1, 0, 0, 0] = value
        return latents

    with pytest.raises(OmfaError, match="float16"):
        write_latents(folders[0], tmp_path / "out", broken, slots=SLOTS, vae_id="means")
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_always_sees_whole_batches(folders, tmp_path):
    sizes = set()

    def counting(pictures):
        sizes.add(pictures.shape)
        return encode(pictures)

    write_latents(folders[0], tmp_path / "o", counting, slots=SLOTS, vae_id="means", batch_size=4)
    assert sizes == {(4, 64, 48, 3), (4, 16, 16, 3)}
