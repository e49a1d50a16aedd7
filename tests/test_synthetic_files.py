"""The folder of a synthetic world: layout, truth, repeatability and resuming."""

import json

import numpy as np
import pytest
from PIL import Image

from omfa_jax.body.body_file import load_body
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb

pytest.importorskip("numba")
from omfa_jax.synthetic import World, write_world

SIZE = {"height_px": 64, "width_px": 48}
COUNTS = {"train": 3, "val": 2, "test": 3}
CIHP_UPPER_RGB = [254, 85, 0]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    report = write_world(folder, seed=5, counts=COUNTS, **SIZE)
    assert (report.root, report.written, report.kept) == (folder, 8, 0)
    return folder


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def content(folder):
    return {name: path.read_bytes() for name, path in files(folder).items()}


def pairs(root, split):
    return [line.split() for line in (root / f"{split}_pairs.txt").read_text().splitlines()]


def test_layout_is_complete(root):
    expected = {"world.json", *(f"{split}_pairs.txt" for split in COUNTS)}
    for split, start in (("train", 0), ("val", 80_000), ("test", 90_000)):
        for i in range(start, start + COUNTS[split]):
            stem = f"{split}/{{}}/{i:05d}_00"
            for folder in ("image", "cloth", "cloth-mask"):
                expected.add(f"{stem.format(folder)}.jpg")
            expected.add(f"{stem.format('image-parse-v3')}.png")
            expected.add(f"{stem.format('openpose_json')}_keypoints.json")
            expected.add(f"{stem.format('smplx')}.npz")
        if split == "train":
            continue
        for person, garment in pairs(root, split):
            i, other = int(person[:5]), int(garment[:5])
            for name in (f"{i:05d}_{other:05d}_{i:05d}", f"{i:05d}_{i:05d}_{i + 1:05d}"):
                expected |= {f"{split}/truth/image/{name}.jpg", f"{split}/truth/smplx/{name}.npz"}
                expected.add(f"{split}/truth/image-parse-v3/{name}.png")
    assert set(files(root)) == expected


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_every_file_is_readable(root):
    for path in root.glob("*/**/*.jpg"):
        image = opened(path)
        mask = "cloth-mask" in path.parts
        assert image.size == (48, 64) and image.mode == ("L" if mask else "RGB")
        if not mask:
            # one chroma sample per luma sample: no subsampling
            assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
    for path in root.glob("*/**/*.png"):
        image = opened(path)
        assert image.mode == "P" and set(np.unique(image)) <= {0, 2, 5, 9, 10, 13, 14, 15}
        assert image.getpalette()[15:18] == CIHP_UPPER_RGB
    for path in root.glob("*/openpose_json/*.json"):
        person = json.loads(path.read_text())["people"][0]
        assert np.array(person["pose_keypoints_2d"]).reshape(25, 3)[0, 2] == 1
    description = json.loads((root / "world.json").read_text())
    expected = {
        "version": 1,
        "layout": "viton_hd",
        "seed": 5,
        **SIZE,
        "supersample": 2,
        "counts": COUNTS,
    }
    assert description == expected


def test_files_are_the_worlds_pictures(root):
    world = World(5, **SIZE)
    photo = world.render_photo(
        world.get_person(1), world.get_garment(1), world.get_pose(1), world.get_view(1)
    )
    stored = read_rgb(root / "train/image/00001_00.jpg").astype(int)
    assert np.abs(stored - photo.image).mean() < 3
    parse = np.array(opened(root / "train/image-parse-v3/00001_00.png"))
    np.testing.assert_array_equal(parse, photo.parse)
    params, camera = load_body(root / "train/smplx/00001_00.npz")
    np.testing.assert_array_equal(params.get_full_pose(), photo.params.get_full_pose())
    assert camera.focal_px == photo.camera.focal_px
    shop, mask = world.render_garment(world.get_garment(1))
    assert np.abs(read_rgb(root / "train/cloth/00001_00.jpg").astype(int) - shop).mean() < 3
    stored_mask = np.array(opened(root / "train/cloth-mask/00001_00.jpg")) >= 128
    np.testing.assert_array_equal(stored_mask, mask)


def test_splits_share_no_person_and_no_garment(root):
    people = {split: {person for person, _ in pairs(root, split)} for split in COUNTS}
    garments = {split: {garment for _, garment in pairs(root, split)} for split in COUNTS}
    for table in (people, garments):
        assert sum(map(len, table.values())) == len(set.union(*table.values())) == 8
    for folder in ("cloth", "image"):
        pictures = [path.read_bytes() for path in root.glob(f"*/{folder}/*.jpg")]
        assert len(set(pictures)) == 8


def test_train_is_paired_and_the_rest_is_not(root):
    assert all(person == garment for person, garment in pairs(root, "train"))
    for split in ("val", "test"):
        assert all(person != garment for person, garment in pairs(root, split))
        assert all((root / split / "cloth" / garment).exists() for _, garment in pairs(root, split))


def test_truth_is_the_same_person_in_another_garment_or_pose(root):
    world = World(5, **SIZE)
    for person, garment in pairs(root, "test"):
        i, other = int(person[:5]), int(garment[:5])
        unpaired, moved = f"{i:05d}_{other:05d}_{i:05d}", f"{i:05d}_{i:05d}_{i + 1:05d}"
        folder = root / "test" / "truth"
        members = (
            world.get_person(i),
            world.get_garment(other),
            world.get_pose(i),
            world.get_view(i),
        )
        stored = read_rgb(folder / "image" / f"{unpaired}.jpg").astype(int)
        assert np.abs(stored - world.render_photo(*members).image).mean() < 3
        own, own_camera = load_body(root / "test/smplx" / f"{i:05d}_00.npz")
        same, same_camera = load_body(folder / "smplx" / f"{unpaired}.npz")
        np.testing.assert_array_equal(same.get_full_pose(), own.get_full_pose())
        np.testing.assert_array_equal(same_camera.translation, own_camera.translation)
        new, _ = load_body(folder / "smplx" / f"{moved}.npz")
        np.testing.assert_array_equal(new.betas, own.betas)
        np.testing.assert_array_equal(new.get_full_pose(), world.get_pose(i + 1).rotations)
        assert np.abs(new.get_full_pose() - own.get_full_pose()).max() > 0.1


def test_only_missing_files_are_written_again(root):
    before = content(root)
    lost = root / "test/cloth/90001_00.jpg", root / "train/image/00002_00.jpg"
    for path in lost:
        path.unlink()
    times = {name: path.stat().st_mtime_ns for name, path in files(root).items()}
    report = write_world(root, seed=5, counts=COUNTS, **SIZE)
    assert (report.written, report.kept) == (2, 6)
    assert content(root) == before
    listings = {"world.json", *(f"{split}_pairs.txt" for split in COUNTS)}
    for name, time in times.items():
        assert name in listings or files(root)[name].stat().st_mtime_ns == time


def test_a_broken_run_is_completed_to_the_same_bytes(root, tmp_path):
    def stop(done, total):
        assert total == 8
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path, seed=5, counts=COUNTS, progress=stop, **SIZE)
    assert not (tmp_path / "world.json").exists()
    with pytest.raises(OmfaError, match=r"holds another synthetic data set.*seed 6, found 5"):
        write_world(tmp_path, seed=6, counts=COUNTS, **SIZE)
    assert write_world(tmp_path, seed=5, counts=COUNTS, **SIZE).kept == 4
    assert content(tmp_path) == content(root)


def test_wrong_requests_are_refused(root, tmp_path):
    with pytest.raises(OmfaError, match=r"holds another synthetic data set.*width_px 96, found 48"):
        write_world(root, seed=5, counts=COUNTS, height_px=64, width_px=96)
    with pytest.raises(OmfaError, match="unknown split 'tests'; did you mean 'test'"):
        write_world(tmp_path, seed=5, counts={"tests": 1}, **SIZE)
    with pytest.raises(OmfaError, match="--val: expected 0 to 9999 people, got 10000"):
        write_world(tmp_path, seed=5, counts={"val": 10_000}, **SIZE)
    assert not files(tmp_path)
