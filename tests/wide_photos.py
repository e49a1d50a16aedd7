"""A wide photo with a small person, and `omfa sample` on it with a stand-in for the network."""

import json
from pathlib import Path

import numpy as np
import tiny_viton as tiny

import omfa_jax as omfa
from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_maps import SETTINGS_FILE
from omfa_jax.cli.main import main
from omfa_jax.core.images import from_signed, write_image
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.model_loading import read_settings

TINY = Path(omfa.__file__).parent / "assets" / "tiny"
STYLE = "positions"
HEIGHT_PX, WIDTH_PX = 900, 1600
# a person of a third of the height
BOX = (1000, 400, 1110, 700)


class StandIn:
    """A sampler whose network returns the clean person: who is drawn in the pose map."""

    def __init__(self, model, settings, *, dtype, on_step):
        self.model, self.settings, self.dtype = model, settings, "float32"
        self.on_step = on_step

    def __call__(self, task, given, pose, *, seed, has_pose=None):
        for done in range(self.settings.steps if self.on_step else 0):
            self.on_step(np.int32(done))
        slots = dict(zip(COMPONENTS, self.model.settings.slots_px, strict=True))
        blank = np.full((1, *slots["person"], 3), -1.0) if pose is None else pose
        row = next(row for row in self.model.settings.tasks if row.name == task)
        shown = {"person": blank, "garment": given.get("person", blank), "face": blank}
        return {name: from_signed(np.asarray(shown[name])) for name in row.noised}


def install(monkeypatch):
    """Let `omfa sample` use the stand-in, and no weights."""
    settings = read_settings(TINY)
    monkeypatch.setattr("omfa_jax.sampling.sampler.Sampler", StandIn)
    # the tests have a compilation cache
    monkeypatch.setattr("omfa_jax.sampling.sample_files.can_report_steps", lambda: True)
    monkeypatch.setattr(
        "omfa_jax.model_loading.load_model",
        lambda path, ema: type("Model", (), {"settings": settings}),
    )


def draw(box=BOX, size_px=(HEIGHT_PX, WIDTH_PX), ground=(0, 0, 0)):
    image = np.full((*size_px, 3), ground, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = (250, 40, 20)
    return image


def find_red(image):
    y, x = np.nonzero(image[..., 0].astype(int) - image[..., 2] > 100)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def write_raw(tmp_path):
    """Write a photo of 16:9, a garment and a face; nothing lies beside the photo."""
    folder = tmp_path / "raw" / "test"
    write_image(folder / "image" / "me.png", draw(ground=(90, 120, 160)))
    write_image(folder / "cloth.png", tiny.garment(1))
    write_image(folder / "face.png", np.full((20, 20, 3), 200, np.uint8))
    return folder


def sample(raw, out, *more, task="try_on", checkpoint=TINY):
    words = ["sample", f"--checkpoint={checkpoint}", f"--task={task}", f"--out={out}"]
    if task != "try_off":
        words += [f"--garment={raw}/cloth.png", f"--face={raw}/face.png"]
    return main([*words, f"--person={raw}/image/me.png", "--steps=3", *map(str, more)])


def write_map(raw, style=STYLE, image=None):
    path = raw / "pose" / "me.png"
    write_image(path, draw() if image is None else image)
    note = {"style": style, "size_px": "as the photo", "body_model": "the free body"}
    (raw / "pose" / SETTINGS_FILE).write_text(json.dumps(note))
    return path


def write_body(path, size_px=(HEIGHT_PX, WIDTH_PX), focal_px=690.0):
    """A body whose height is about a third of the photo's."""
    height, width = size_px
    camera = make_look_at_camera(
        (0.4, 0, 4), (0.4, 0, 0), focal_px=focal_px * height / 900, width_px=width, height_px=height
    )
    path.parent.mkdir(exist_ok=True)
    save_body(path, make_neutral_params(), camera)
    return camera
