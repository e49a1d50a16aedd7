"""The numpy networks against what LiteRT computed for the same photo (tools/bake_landmarks.py)."""

from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body.landmarks import person_detector, person_landmarks
from omfa_jax.body.landmarks.conv_network import load_network
from omfa_jax.body.landmarks.square_crop import SquareCrop, cut, paste_mask

FIXTURE = Path(__file__).parent / "fixtures" / "landmark_outputs.npz"
MAX_ERROR_PX = 1e-3


@pytest.fixture(scope="module")
def lite() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as file:
        return dict(file)


def largest(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max())


def test_network_agrees_with_lite_rt(lite):
    photo = lite["photo"]
    seen = {}

    def remember(prefix, name):
        network = person_landmarks._load(name)

        def run(x):
            found = network(x)
            seen.update({f"{prefix}/{key}": value for key, value in found.items()})
            return found

        return run

    (detection, *_), _ = person_detector.detect(photo, remember("detector", "pose_detection"))
    run, size_px = remember("landmarks", "pose_landmark_full"), (photo.shape[1], photo.shape[0])
    person, doubt = person_landmarks.find_landmarks(photo, detection, run, 1.0, size_px)
    assert not doubt and len(seen) == 7
    # in pixels of the networks' inputs
    scores = person_detector.sigmoid(lite["detector/scores"].ravel())
    sure = scores >= person_detector.MIN_SCORE
    assert largest(seen["detector/boxes"][sure], lite["detector/boxes"][sure]) <= MAX_ERROR_PX
    assert largest(person_detector.sigmoid(seen["detector/scores"].ravel()), scores) <= 1e-5
    places, expected = (
        found["landmarks/landmarks"].reshape(-1, 5)[:, :2] for found in (seen, lite)
    )
    assert largest(places, expected) <= MAX_ERROR_PX
    assert largest(seen["landmarks/world"], lite["landmarks/world"]) <= 1e-5
    assert largest(seen["landmarks/score"], lite["landmarks/score"]) <= 1e-5
    for name in ("mask", "heatmaps"):
        found, expected = seen[f"landmarks/{name}"][::4, ::4], lite[f"landmarks/{name}"]
        shares = (person_detector.sigmoid(one) for one in (found, expected))
        assert largest(*shares) <= 1e-3
    # in pixels of the photo
    assert largest(person.points_px, lite["points_px"]) <= MAX_ERROR_PX
    assert largest(person.world_m, lite["world_m"]) <= 1e-5
    assert largest(person.visibility, lite["visibility"]) <= 1e-5
    assert largest(person.presence, lite["presence"]) <= 1e-5


@pytest.mark.parametrize("module, border", [(person_landmarks, "zero"), (person_detector, "edge")])
def test_the_other_border_moves_the_points(lite, monkeypatch, module, border):
    monkeypatch.setattr(module, "cut", lambda photo, crop, size, _: cut(photo, crop, size, border))
    people = person_landmarks.find_people(lite["photo"])
    assert not people or largest(people[0].points_px, lite["points_px"]) > 100 * MAX_ERROR_PX


def test_operators_agree_with_jax():
    jax = pytest.importorskip("jax")
    from omfa_jax.body.landmarks import conv_network as ours

    rng = np.random.default_rng(0)
    conv = jax.lax.conv_general_dilated
    names = ("NHWC", "HWIO", "NHWC")
    for size, window, stride, depth, count in (
        (9, 3, 1, 4, 5), (9, 3, 2, 4, 5), (8, 3, 1, 6, 2), (11, 3, 2, 6, 2), (8, 1, 2, 3, 4)
    ):  # fmt: skip
        for padding in ("same", "valid"):
            x = rng.normal(size=(size, size + 1, depth)).astype(np.float32)
            w = rng.normal(size=(window, window, depth, count)).astype(np.float32)
            b = rng.normal(size=count).astype(np.float32)
            strides = (stride, stride)
            expected = conv(x[None], w, strides, padding.upper(), dimension_numbers=names)[0] + b
            assert largest(ours._convolve([x, w, b], stride, padding, ""), expected) < 1e-4
            w = rng.normal(size=(window, window, depth)).astype(np.float32)
            expected = conv(
                x[None],
                w.reshape(window, window, 1, depth),
                strides,
                padding.upper(),
                dimension_numbers=names,
                feature_group_count=depth,
            )[0]
            found = ours._convolve_depthwise([x, w], stride, padding, "relu")
            assert largest(found, np.maximum(expected, 0)) < 1e-4
    x = rng.normal(size=(5, 7, 3)).astype(np.float32)
    expected = jax.image.resize(x, (10, 14, 3), "linear")
    assert largest(ours._resize_bilinear([x], (10, 14), True, False), expected) < 1e-5


def test_shipped_files_are_those_that_were_baked():
    import hashlib
    import json

    folder = Path(person_landmarks.__file__).parents[2] / "assets" / "landmarks"
    for name in ("pose_detection", "pose_landmark_full"):
        weights = (folder / f"{name}.safetensors").read_bytes()
        about = json.loads((folder / f"{name}.json").read_text())
        assert hashlib.sha256(weights).hexdigest() == about["sha256"]
        assert about["license"] == "Apache-2.0" and name in about["source"]
        assert len(about["source_sha256"]) == 64 and len(weights) < 10_000_000
        network = load_network(folder, name)
        with pytest.raises(ValueError, match="expected an input of shape"):
            network(np.zeros((3, 3, 3), np.float32))


def test_mask_lies_where_the_crop_is():
    # a crop rotated by 30 degrees, with one bright quarter, compared at the points themselves
    crop = SquareCrop((40.0, 30.0), 50.0, np.pi / 6)
    mask = np.zeros((64, 64))
    mask[:32, 32:] = 1
    pasted = paste_mask(mask, crop, (90, 70))
    assert pasted.shape == (70, 90)
    y, x = np.mgrid[:70, :90]
    shares = (np.stack([x, y], -1) + 0.5 - crop.center_px) @ crop.rotation / crop.side_px + 0.5
    margin = 0.04
    inside = (shares[..., 0] > 0.5 + margin) & (shares[..., 0] < 1 - margin)
    inside &= (shares[..., 1] > margin) & (shares[..., 1] < 0.5 - margin)
    outside = (shares[..., 0] < 0.5 - margin) | (shares[..., 1] > 0.5 + margin)
    assert inside.sum() > 300 and (pasted[inside] == 1).all()
    assert outside.sum() > 300 and (pasted[outside] == 0).all()
    # the crop of the whole photo, unscaled, is the photo; beyond it zeros or the edge
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(cut(photo, SquareCrop((4, 4), 8), 8, "zero"), photo)
    wide = cut(photo, SquareCrop((4, 4), 10), 10, "edge")
    np.testing.assert_array_equal(wide, np.pad(photo, ((1, 1), (1, 1), (0, 0)), "edge"))
    zeros = cut(photo, SquareCrop((4, 4), 10), 10, "zero")
    np.testing.assert_array_equal(zeros, np.pad(photo, ((1, 1), (1, 1), (0, 0))))
