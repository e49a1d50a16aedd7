"""The script beside an export writes people in their photo's frame, and asks for a map's style."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omfa_jax

ASSETS = Path(omfa_jax.__file__).parent / "assets"
TINY = ASSETS / "tiny"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("omfa_torch", ASSETS / "omfa_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wide(tmp_path):
    """A photo of 16:9 with a person of a third of the height, and its pose map."""
    for name, ground in (("photo", (90, 120, 160)), ("pose", (0, 0, 0))):
        image = np.full((450, 800, 3), ground, np.uint8)
        image[200:350, 500:555] = (250, 40, 20)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return tmp_path


def stand_in(script, monkeypatch):
    """Let the network return the pose map as the person, and count the models that are loaded."""
    loaded = []

    class Model:
        def __init__(self, *arguments):
            self.slots_px = {"garment": (128, 96), "person": (128, 96), "face": (64, 64)}
            loaded.append(arguments)

        def generate(self, task, given, pose, **settings):
            row = {"try_on": "person", "try_off": "garment"}[task]
            shown = pose if task == "try_on" else given["person"]
            return {row: script.letterbox(shown, *self.slots_px["person"], 0)}

    monkeypatch.setattr(script, "Model", Model)
    return loaded


def test_the_script_writes_people_in_their_photos_frame(script, monkeypatch, wide, capsys):
    stand_in(script, monkeypatch)
    photo, given = wide / "photo.png", [f"--pose={wide}/pose.png", f"--out={wide}/out.png"]
    before = np.array(Image.open(photo))

    def run(*more, task="try_on"):
        assert script.main([task, *given, *more]) == 0
        return np.array(Image.open(wide / "out.png"))

    result = run(f"--person={photo}")
    assert result.shape == before.shape
    y, x = np.nonzero(result[..., 0].astype(int) - result[..., 2] > 100)
    found = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert np.abs(np.subtract(found, (500, 200, 555, 350))).max() <= 2
    np.testing.assert_array_equal(result[:150], before[:150])
    assert "cropped to the part of the photo around the person" in capsys.readouterr().out
    # of the pose map's size, where there is no photo to paste into
    assert run().shape == before.shape
    assert "cropped" not in capsys.readouterr().out
    assert run(f"--person={photo}", "--native-size").shape == (128, 96, 3)
    whole = run(f"--person={photo}", "--no-crop")
    assert whole.shape == before.shape and (whole[:100] == 0).all()
    # the garment has no photo; the person is cropped all the same
    taken = run(f"--person={photo}", task="try_off")
    assert taken.shape == (128, 96, 3)
    assert np.ptp(np.nonzero(taken[..., 0].astype(int) - taken[..., 2] > 100)[0]) > 90


def test_the_script_refuses_pose_maps_of_another_style(script, monkeypatch, wide, capsys):
    loaded = stand_in(script, monkeypatch)
    flags = ["try_on", f"--pose={wide}/pose.png", f"--out={wide}/out.png", f"--model={TINY}"]
    note = wide / "pose_maps.json"
    note.write_text('{"style": "normals"}')
    assert script.main(flags) == 2 and not loaded
    said = capsys.readouterr().err
    assert "style 'positions', and" in said and "is 'normals' (pose_maps.json" in said
    assert said.count("\n") == 1
    note.write_text("{}")
    assert script.main(flags) == 2 and "says no style" in capsys.readouterr().err
    note.write_text('{"style": "positions"}')
    assert script.main(flags) == 0 and len(loaded) == 1
