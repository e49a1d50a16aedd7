"""`omfa data keypoints`: files of landmarks, who reads them, and what becomes of bad photos."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omfa_jax.body.keypoints.joint_orders import BODY_25
from omfa_jax.body.keypoints.keypoint_reader import read_keypoints
from omfa_jax.body.landmarks import LANDMARK_INDEX, LANDMARK_NAMES, find_people, landmark_folder
from omfa_jax.body.landmarks.landmark_json import is_landmark_file, make_document
from omfa_jax.cli.main import main as omfa
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.data.builders import face_box
from omfa_jax.data.builders.keypoint_photos import find_photos, list_landmark_jobs
from omfa_jax.data.records import keypoint_sheet
from omfa_jax.synthetic.world import World

FIXTURE = Path(__file__).parent / "fixtures" / "landmark_outputs.npz"


@pytest.fixture(scope="module")
def person():
    with np.load(FIXTURE) as file:
        return file["photo"]


def test_points_lie_on_a_synthetic_person():
    world = World(4, 256, 192)
    members = world.get_person(1), world.get_garment(1), world.get_pose(1), world.get_view(1)
    rendered = world.render_photo(*members)
    (found,) = find_people(rendered.image)
    compared = [name for name in LANDMARK_NAMES if name in BODY_25 and "hip" not in name]
    truth = np.array([rendered.keypoints[BODY_25.index(name)] for name in compared])
    points = found.points_px[[LANDMARK_INDEX[name] for name in compared]]
    errors = np.linalg.norm(points - truth[:, :2], axis=1)[truth[:, 2] > 0]
    assert len(errors) >= 9 and np.median(errors) < 4 and errors.max() < 10
    # left and right are the person's own, and the metres those of a person
    assert found.points_px[LANDMARK_INDEX["left_shoulder"], 0] > found.points_px[12, 0]
    shoulders = found.world_m[11] - found.world_m[12]
    assert 0.2 < np.linalg.norm(shoulders) < 0.5
    assert np.abs(found.world_m[[23, 24]].mean(axis=0)).max() < 0.02
    # the mask covers what the label map calls a person
    is_person = rendered.parse > 0
    agreement = (found.mask > 0.5) & is_person
    assert agreement.sum() > 0.9 * ((found.mask > 0.5) | is_person).sum()
    rows, columns = np.nonzero(is_person)
    x0, y0, x1, y1 = found.box_px
    assert np.abs(np.subtract((x0, y0), (columns.min(), rows.min()))).max() < 8
    assert np.abs(np.subtract((x1, y1), (columns.max() + 1, rows.max() + 1))).max() < 8


def test_file_is_read_like_any_other_tools(tmp_path, person):
    people = find_people(person)
    path = tmp_path / "a_keypoints.json"
    size_px = (person.shape[1], person.shape[0])
    path.write_text(json.dumps(make_document(people, "a.jpg", size_px)))
    assert is_landmark_file(path) and not is_landmark_file(tmp_path / "none.json")
    found = read_keypoints(path, size_px, photo="a.jpg")
    assert found.notes == () and found.rows.shape == (25, 3)
    for name, landmark in {"left_wrist": "left_wrist", "right_big_toe": "right_foot_index"}.items():
        row, index = found.rows[BODY_25.index(name)], LANDMARK_INDEX[landmark]
        expected = [*people[0].points_px[index], people[0].confidence[index]]
        if row.any():
            np.testing.assert_allclose(row, expected, atol=0.006)
    assert found.rows[BODY_25.index("left_shoulder")].any()
    stored = json.loads(path.read_text())["people"][0]
    for key, value in (("world_m", people[0].world_m), ("presence", people[0].presence)):
        np.testing.assert_allclose(stored[key], value, atol=6e-5)
    confidences = np.minimum(stored["visibility"], stored["presence"])
    np.testing.assert_allclose(np.array(stored["keypoints"])[:, 2], confidences, atol=1e-9)
    # of a photo of twice the size
    twice = read_keypoints(path, (2 * size_px[0], 2 * size_px[1]), photo="a.jpg")
    np.testing.assert_allclose(twice.rows[0, :2], 2 * found.rows[0, :2])
    box = face_box.find_face_box(found.rows, None, *person.shape[:2])
    assert box is not None and box[0] < found.rows[0, 0] < box[2]


def write_raw(root, person):
    for name in ("a", "b", "c"):
        write_image(root / f"test/image/{name}.png", person)
    write_image(root / "test/image/nobody.png", np.full_like(person, 200))
    (root / "test/image/text.jpg").write_text("no image")
    (root / "test/openpose-json").mkdir()
    (root / "test/openpose-json/c.json").write_text('{"people": []}')


def test_command_resumes_and_lists_failures(tmp_path, person, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "omfa_jax")
    write_raw(tmp_path, person)
    command = ["data", "keypoints", "--raw", str(tmp_path), "--processes", "1"]
    assert omfa(command) in (0, None)
    assert "2 written, 1 kept, 2 failed" in caplog.text
    assert "nobody.png: no person found (best score 0.0" in caplog.text
    assert "text.jpg: not an image" in caplog.text
    folder = tmp_path / "test/openpose-json"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("a_keypoints.json", "b_keypoints.json", "c.json")
    ]
    report = json.loads((tmp_path / "test/keypoints_report.json").read_text())
    assert report["written"] == 2 and report["failed"].keys() == {"nobody", "text"}
    # a second call tries only what is missing
    (folder / "b_keypoints.json").unlink()
    seen = []
    find = landmark_folder.find_people
    monkeypatch.setattr(landmark_folder, "find_people", lambda a: seen.append(1) or find(a))
    omfa(command)
    assert "1 written, 2 kept, 2 failed" in caplog.text and len(seen) == 2
    # another tool's file is replaced only when told, and kept where nobody is found
    assert (folder / "c.json").read_text() == '{"people": []}'
    (folder / "nobody.json").write_text("of another tool")
    omfa([*command, "--overwrite"])
    assert "3 written, 0 kept, 2 failed" in caplog.text
    assert "(its existing keypoints are kept)" in caplog.text
    assert (folder / "nobody.json").read_text() == "of another tool"
    assert is_landmark_file(folder / "c.json")
    ((_, photos),) = find_photos(tmp_path, None, []).items()
    sizes = (person.shape[1], person.shape[0])
    rows = [photo.read(sizes).rows for photo in photos if photo.name in "abc"]
    assert len(rows) == 3 and (rows[0] == rows[2]).all()


def test_check_counts_and_show_draws(tmp_path, person, caplog, capsys):
    caplog.set_level(logging.INFO, "omfa_jax")
    write_image(tmp_path / "test/image/a.png", person)
    write_image(tmp_path / "test/cloth/a.png", person[:50])
    omfa(["data", "keypoints", "--raw", str(tmp_path), "--processes", "1"])
    omfa(["data", "check", "--raw", str(tmp_path)])
    assert "keypoints found by omfa data keypoints: 1 (no fault)" in caplog.text
    out = tmp_path / "sheet.png"
    write_image(tmp_path / "test/image/b.png", person)
    (tmp_path / "test/openpose_json/b_keypoints.json").write_text("{")
    assert omfa(["data", "show", "--raw", str(tmp_path), "--out", str(out)]) in (0, None)
    assert "2 of 2 photos with keypoints, 1 of them unusable" in caplog.text
    sheet = read_rgb(out)
    drawn, plain = np.split(sheet, 2, axis=1)
    # the person's right is on the left of the photo; without keypoints nothing is drawn
    drawn, plain = drawn[20:, 4:-4].astype(int), plain[20:, 4:-4].astype(int)
    changed = np.abs(drawn - plain).max(axis=2) > 20
    red, green = (
        changed & (np.abs(drawn - color).max(axis=2) < 60)
        for color in keypoint_sheet.SIDE_COLORS.values()
    )
    assert min(red.sum(), green.sum()) > 100 and changed.mean() < 0.1
    assert np.nonzero(red)[1].mean() < np.nonzero(green)[1].mean() - 20
    status = omfa(["data", "show", "--records", "r", "--dataset", "viton_hd", "--out", str(out)])
    assert status == 2 and "--dataset is for --raw" in capsys.readouterr().err


def test_layouts(tmp_path):
    def touch(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
        return path

    photo = touch("dc/dresses/images/000001_0.jpg")
    touch("dc/dresses/images/000001_1.jpg")
    ((folder, jobs),) = list_landmark_jobs(tmp_path / "dc", None).items()
    assert folder.name == "dresses" and [job.photo for job in jobs] == [photo]
    assert jobs[0].target == folder / "keypoints/000001_2.json"
    touch("df/images/a.jpg")
    with pytest.raises(OmfaError, match=r"has 21 landmarks .* expected the layout of viton_hd"):
        list_landmark_jobs(tmp_path / "df", None)
    (tmp_path / "empty/test/image").mkdir(parents=True)
    with pytest.raises(OmfaError, match="no photos in the layout of viton_hd"):
        list_landmark_jobs(tmp_path / "empty", None)
