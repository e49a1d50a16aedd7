"""Which photos of a raw folder have keypoints, in three layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from omfa_jax.body.fit.keypoints import DEEPFASHION
from omfa_jax.body.keypoints.keypoint_reader import NoPersonError, OtherSizeError
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.keypoint_photos import find_photos
from omfa_jax.data.builders.landmark_files import LANDMARKS


def picture(path, size=(30, 40), orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_openpose(tmp_path):
    for name in ("b", "a", "lonely"):
        picture(tmp_path / "test/image" / f"{name}.jpg", orientation=6 if name == "a" else None)
    people = {"people": [{"pose_keypoints_2d": [20, 30, 0.5] * 25}]}
    write(tmp_path / "test/openpose-json/a_keypoints.json", json.dumps(people))
    write(tmp_path / "test/openpose-json/b_keypoints.json", json.dumps({"people": []}))
    warnings = []
    ((folder, photos),) = find_photos(tmp_path, "viton_hd", warnings).items()
    assert folder == tmp_path / "test" and [photo.name for photo in photos] == ["a", "b"]
    assert photos[0].read_size_px() == (40, 30) and photos[1].read_size_px() == (30, 40)
    assert photos[0].read((40, 30)).rows.shape == (25, 3)
    with pytest.raises(NoPersonError, match=r"b_keypoints.json: no person in the keypoints"):
        photos[1].read((30, 40))
    assert warnings == ["test: 1 photos without keypoints (lonely)"]
    photos[1].path.write_bytes(b"no picture")
    with pytest.raises(OmfaError, match="damaged"):
        photos[1].read_size_px()


def test_deepfashion(tmp_path):
    assert DEEPFASHION.names == LANDMARKS
    picture(tmp_path / "images/MEN-a.jpg")
    numbers = np.arange(42)
    write(tmp_path / "keypoints/keypoints_loc.txt", f"MEN-a.jpg {' '.join(map(str, numbers))}\n")
    write(tmp_path / "keypoints/keypoints_vis.txt", "MEN-a.jpg " + " ".join("012" * 7) + "\n")
    ((folder, photos),) = find_photos(tmp_path, "deepfashion_multimodal", []).items()
    assert folder == tmp_path
    rows = photos[0].read((60, 60)).rows
    assert rows[:3].tolist() == [[0, 1, 1], [2, 3, 0.5], [4, 5, 0]]
    with pytest.raises(OtherSizeError, match="of another size than the photo"):
        photos[0].read((15, 20))
    with pytest.raises(OmfaError, match="--person-index does not apply"):
        find_photos(tmp_path, "deepfashion_multimodal", [], person_index=1)


def test_dresscode(tmp_path):
    picture(tmp_path / "dresses/images/000001_0.jpg", (768, 1024))
    picture(tmp_path / "dresses/images/000001_1.jpg")
    row = [10, 20, 0.5, 0]
    write(tmp_path / "dresses/keypoints/000001_2.json", json.dumps({"keypoints": [row] * 18}))
    ((folder, photos),) = find_photos(tmp_path, "dresscode", []).items()
    assert folder.name == "dresses" and [photo.name for photo in photos] == ["000001_0"]
    rows = photos[0].read(photos[0].read_size_px()).rows
    assert rows[0].tolist() == [20, 40, 0.5]


def test_wrong_folders(tmp_path):
    with pytest.raises(OmfaError, match="no photos with keypoints in the layout of viton_hd"):
        find_photos(tmp_path, "viton_hd", [])
    with pytest.raises(OmfaError, match="viton_hd"):
        find_photos(tmp_path, "openpos", [])
    with pytest.raises(OmfaError, match="expected the layout of a data set"):
        find_photos(tmp_path, None, [])


def test_one_split_alone(tmp_path):
    people = {"people": [{"pose_keypoints_2d": [20, 30, 0.5] * 25}]}
    for split in ("train", "test"):
        picture(tmp_path / split / "image/a.jpg")
        picture(tmp_path / split / "image/lonely.jpg")
        write(tmp_path / split / "openpose_json/a_keypoints.json", json.dumps(people))
    assert len(find_photos(tmp_path, None, [])) == 2
    warnings = []
    found = find_photos(tmp_path, None, warnings, split="test")
    assert [*found] == [tmp_path / "test"]
    # nothing is said of the other split
    assert warnings == ["test: 1 photos without keypoints (lonely)"]
    with pytest.raises(OmfaError, match=r"--split.*'val' .known: test, train"):
        find_photos(tmp_path, None, [], split="val")
    with pytest.raises(OmfaError, match="--split does not apply to --dataset deepfashion"):
        find_photos(tmp_path, "deepfashion_multimodal", [], split="test")
