"""The README's path from a data set to an image runs as it is written, at a small size."""

import dataclasses
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
from one_device import use_one_device
from small_encoders import CONTEXT_DIM, POOLED_DIM, write_encoders
from small_models import SMALL_VAE
from tiny_training import UNET
from torch_models import torch_unet, torch_vae

import convert_weights
import omfa_jax as omfa
from configs.vitonhd import get_config
from omfa_jax.body.pose_map_style import read_map_style
from omfa_jax.cli.main import main
from omfa_jax.core.images import read_rgb
from omfa_jax.data.records.record_schema import open_records
from omfa_jax.synthetic import write_world

README = documents.ROOT / "README.md"
PEOPLE = {"train": 8, "test": 2}
# a synthetic person's name, and that of a person of VITON-HD's test set whom the README names
NAMES = {"90000_00": "00006_00", "90001_00": "00891_00"}
SIZES = [
    "--config.canvas.garment=(32,32)",
    "--config.canvas.person=(32,32)",
    "--config.canvas.face=(16,16)",
]
# all that is added to the commands
MORE = {
    "omfa data fit": ["--batch-size=8"],
    "omfa data poses": ["--processes=1"],
    "omfa train --config configs/vitonhd.py --workdir .": [
        *SIZES,
        "--config.mesh.allow_replicated=True",
        "--config.model.unet=tiny",
        "--config.model.vae=tiny",
    ],
    "omfa plan": [*SIZES, "--config.model.unet=tiny", "--config.model.vae=tiny"],
    "omfa train --config configs/vitonhd.py --workdir runs/vitonhd": [
        *SIZES,
        "--config.train.steps=2",
        "--config.log.samples_every_steps=0",
        "--config.mesh.allow_replicated=True",
    ],
    "omfa sample": ["--steps=2"],
    "omfa scaling plan": [*SIZES, "--sizes=ladder_12", "--budgets=1e13"],
}


def read_blocks(heading: str, language: str) -> list[str]:
    """Return the blocks of a language under a heading."""
    title = f"\n## {heading}\n"
    return [
        block.text
        for block in documents.blocks(README)
        if block.language == language
        and title in block.before
        and "\n## " not in block.before.split(title)[1]
    ]


def run(line: str) -> int:
    """Run a command of the README in this process, with MORE at its end."""
    words = shlex.split(line, comments=True)
    more = [more for start, more in MORE.items() if shlex.join(words).startswith(start)]
    words += [word for words in more for word in words]
    if words[:2] == ["python", "convert_weights.py"]:
        return convert_weights.main(words[2:])
    assert words[0] == "omfa", line
    return main(words[1:])


@pytest.fixture(autouse=True, scope="module")
def _one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a checkout's folder with VITON-HD and SDXL as they are downloaded."""
    folder = tmp_path_factory.mktemp("readme")
    raw = folder / "VITON-HD"
    write_world(raw, seed=0, counts=PEOPLE, height_px=64, width_px=48, supersample=1)
    # the data set has none of these
    (raw / "world.json").unlink()
    for name in ("train/smplx", "test/smplx", "test/truth"):
        shutil.rmtree(raw / name)
    for old, new in NAMES.items():
        for path in raw.glob(f"test/*/{old}*"):
            path.rename(path.with_name(path.name.replace(old, new)))
        pairs = (raw / "test_pairs.txt").read_text()
        (raw / "test_pairs.txt").write_text(pairs.replace(old, new))
    sdxl = write_encoders(folder / "stable-diffusion-xl-base-1.0")
    unet = dataclasses.replace(
        UNET,
        in_channels=4,
        out_channels=4,
        transformer_depth=(0, 0),
        context_dim=CONTEXT_DIM,
        pooled_dim=POOLED_DIM,
    )
    torch_unet(unet).save_pretrained(sdxl / "unet")
    torch_vae(SMALL_VAE).save_pretrained(sdxl / "vae")
    (folder / "configs").symlink_to(documents.ROOT / "configs")
    return folder


@pytest.fixture(scope="module")
def walked(place):
    """Return the folder after the README's path from a data set to an image."""
    (block,) = read_blocks("From a data set to an image", "sh")
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line[:1] != "#"]
    assert len(lines) == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in lines:
            print(line)
            assert run(line) == 0, line
    return place


def test_the_path_leads_to_an_image_in_the_photos_frame(walked):
    images = sorted(path.name for path in (walked / "out").glob("*.png"))
    assert images == ["sheet.png", "try_on_00.png"]
    photo = read_rgb(walked / "VITON-HD/test/image/00891_00.jpg")
    assert read_rgb(walked / "out/try_on_00.png").shape == photo.shape
    said = json.loads((walked / "out/try_on.json").read_text())
    # what `omfa data fit` made, and the keypoints' face
    assert said["inputs"]["pose"] == "VITON-HD/test/smplx/00891_00.npz"
    assert "face" not in said["inputs"]


def test_every_photo_has_a_body_and_a_record_in_the_configs_style(walked):
    config: Any = get_config()
    for split, count in PEOPLE.items():
        raw = walked / "VITON-HD" / split
        assert len(list((raw / "smplx").glob("*.npz"))) == count
        assert read_map_style(raw / "pose" / "x.png") == config.data.pose_style
        source = open_records(walked / "records/vitonhd", split)
        records = [source[i] for i in range(len(source))]
        assert len(records) == count
        assert all(record.pose and record.has_face for record in records)


def test_the_python_example_runs_as_written(walked, monkeypatch):
    """Except for the network, which tests of the sampler run."""
    (block,) = read_blocks("From a data set to an image", "python")
    calls, made = [], {}

    def generate(sampler, task, given, pose, *, seed):
        calls.append((task, {name: image.shape for name, image in given.items()}, pose.shape))
        return {"person": np.zeros(pose.shape, np.uint8)}

    monkeypatch.setattr(omfa.Sampler, "__call__", generate)
    monkeypatch.chdir(walked)
    exec(block, made)
    sizes = omfa.load_model("runs/vitonhd").settings.slots_px
    garment, person, face = ((1, *size, 3) for size in sizes)
    assert calls == [("try_on", {"garment": garment, "face": face}, person)]
    photo = read_rgb(Path("VITON-HD/test/image/00891_00.jpg"))
    assert made["images"].shape == (1, *photo.shape)


@pytest.mark.parametrize(
    ("heading", "start"),
    [
        ("Training on a cluster", "omfa train"),
        ("Export", "python convert_weights.py export"),
        ("Scaling studies", "omfa scaling plan"),
    ],
)
def test_later_commands_start_from_what_the_path_made(walked, monkeypatch, heading, start):
    (block,) = read_blocks(heading, "sh")
    lines = block.replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    monkeypatch.chdir(walked)
    assert run(line) == 0, line


def test_the_install_line_names_extras_that_exist():
    extras = tomllib.loads((documents.ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    text = documents.read(README)
    lines = re.findall(r"pip install ([^`]+)`", text)
    assert lines
    for line in lines:
        found = re.fullmatch(r"-e '\.\[([a-z,]+)\]'", line)
        assert found and set(found[1].split(",")) <= known, line
    named = set(",".join(re.findall(r"\[([a-z,]+)\]", " ".join(lines))).split(","))
    # what fitting, converting, scoring and studying import
    assert {"body", "torch", "eval", "scaling"} <= named
