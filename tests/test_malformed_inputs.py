"""Malformed pictures and body files, seeded: one clear line or the right value, no traceback."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import body_tool_files as files
import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image, features

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.importers.importer_table import IMPORTERS
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError

RECORDS = files.make_records()
PYTHON = re.compile(r"\w+(Error|Exception)\b|Traceback|<class|array\(|dtype|0x[0-9a-f]{6}")
NUM_IMAGES, NUM_BODIES = 30, 60


def check_line(error: OmfaError, name: str) -> None:
    told = str(error)
    assert "\n" not in told and len(told) < 400, told
    assert not PYTHON.search(told), told
    assert name in told or len(told) > 12, told


def make_encoded(rng: np.random.Generator) -> bytes:
    kinds = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "ICO"]
    kind = str(rng.choice([*kinds, *(["AVIF"] if features.check("avif") else [])]))
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))
    mode = str(rng.choice(["RGB", "L", "RGBA", "P", "CMYK", "I;16", "1"]))
    profile = [None, b"junk", icc.make_rgb_profile("display_p3"), icc.make_grey_profile(1.8)]
    options = {"icc_profile": profile[rng.integers(4)]} if kind in ("PNG", "JPEG", "TIFF") else {}
    buffer = io.BytesIO()
    try:
        image.convert("L" if mode == "I;16" else mode).save(buffer, kind, **options)
    except (OSError, ValueError, KeyError):
        # not every format has every mode
        buffer = io.BytesIO()
        image.save(buffer, kind)
    return buffer.getvalue()


def damage(encoded: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(encoded)
    place = int(rng.integers(8, len(data)))
    how = rng.integers(5)
    if how == 0:
        return bytes(data[:place])
    if how == 1:
        for at in rng.integers(0, len(data), 8):
            data[at] = int(rng.integers(256))
    elif how == 2:
        data[place : place + 40] = bytes(len(data[place : place + 40]))
    elif how == 3:
        data[16:24] = b"\xff" * 8
    else:
        data[place:place] = bytes(rng.integers(0, 256, 30, np.uint8))
    return bytes(data)


@pytest.mark.parametrize("seed", range(NUM_IMAGES))
def test_malformed_pictures(tmp_path: Path, record_property, seed: int):
    rng = np.random.default_rng(seed)
    path = tmp_path / "photo.png"
    path.write_bytes(damage(make_encoded(rng), rng))
    with warnings.catch_warnings():
        # outside of tests Pillow's warnings stay warnings
        warnings.simplefilter("ignore")
        for read in (images.read_rgb, images.read_labels, images.read_upright_size):
            try:
                found = read(path, "photo")
            except OmfaError as error:
                check_line(error, "photo.png")
                record_property("said", f"{read.__name__}: {error}")
            else:
                record_property("said", f"{read.__name__}: read")
                assert isinstance(found, tuple) or found.dtype == np.uint8


def spoil(record: dict[str, Any], rng: np.random.Generator) -> Any:
    """Return the record with one of its fields, at any depth, missing or of another kind."""
    name = str(rng.choice(list(record)))
    value = record[name]
    if isinstance(value, dict) and rng.random() < 0.8:
        return record | {name: spoil(value, rng)}
    if name == "smpl" and rng.random() < 0.7:
        return record | {name: [spoil(value[0], rng)]}
    array = np.zeros(3) if isinstance(value, dict) or name == "smpl" else np.asarray(value, float)
    odd = [
        None,
        "a word",
        [],
        {},
        np.full_like(array, np.nan),
        array.ravel()[:-1],
        np.zeros((0, 3)),
        np.float64(1e30),
        array + 1e12,
        np.stack([array, array, array]),
        np.array([[1.0], [2.0, 3.0]], object),
        True,
    ]
    choice = int(rng.integers(len(odd) + 1))
    if choice == len(odd):
        return {key: kept for key, kept in record.items() if key != name}
    return record | {name: odd[choice]}


@pytest.mark.parametrize("seed", range(NUM_BODIES))
def test_malformed_bodies(tmp_path: Path, record_property, seed: int):
    rng = np.random.default_rng(seed)
    tool = sorted(RECORDS)[seed % len(RECORDS)]
    path = files.write_record(tmp_path, tool, spoil(RECORDS[tool], rng))
    source = "romp" if tool == "bev" else tool
    try:
        importer = IMPORTERS[source](path, files.options())
        # arrays repeated along the first axis are a video's frames to some tools
        found = importer.read(next(iter(importer.frames)), files.SIZE_PX)
        pixels = files.see(None, found)
    except OmfaError as error:
        check_line(error, "a")
        record_property("said", f"{tool}: {error}")
        return
    record_property("said", f"{tool}: read")
    body = found.body
    values = body.as_dict().values() if isinstance(body, BodyParams) else vars(body).values()
    assert all(value is None or np.isfinite(value).all() for value in values)
    assert pixels.shape[1] == 2


@pytest.mark.parametrize("tool", sorted(RECORDS))
def test_the_sound_records_are_read(tmp_path: Path, tool: str):
    path = files.write_record(tmp_path, tool, RECORDS[tool])
    importer = IMPORTERS["romp" if tool == "bev" else tool](path, files.options())
    assert np.isfinite(files.see(None, importer.read("a", files.SIZE_PX))).all()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x80\x04.", b"[1, 2"])
@pytest.mark.parametrize("source", sorted(IMPORTERS))
def test_files_that_are_none(tmp_path: Path, source: str, content: bytes):
    suffix = {"easymocap": ".json", "phalp": ".pkl", "smplifyx": ".pkl", "wham": ".pkl"}
    path = tmp_path / f"a{suffix.get(source, '.npz')}"
    path.write_bytes(content)
    with pytest.raises(OmfaError) as caught:
        IMPORTERS[source](path, files.options()).read("a", files.SIZE_PX)
    check_line(caught.value, "a")
