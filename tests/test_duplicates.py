"""Duplicates: copies are found whatever was done to them, people who only look alike are not."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.exclusion_list import read_exclusion_list, write_exclusion_list
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.checks import photo_duplicates
from omfa_jax.data.checks.photo_duplicates import (
    PhotoEntry,
    find_duplicates,
    format_duplicate_report,
)

pytest.importorskip("numba")
from omfa_jax.cli.main import main
from omfa_jax.synthetic import World, write_world

SIZE: dict[str, Any] = {"height_px": 128, "width_px": 96}
PEOPLE = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    world = World(4, **SIZE)
    found = []
    for i in range(PEOPLE):
        members = world.get_person(i), world.get_garment(i), world.get_pose(i), world.get_view(i)
        path = folder / f"{i:05d}.jpg"
        Image.fromarray(world.render_photo(*members).image).save(path, quality=95)
        found.append(PhotoEntry("train" if i < 16 else "test", path.name, path))
    # the same person, pose and light, in another garment: no duplicate
    for i in range(4):
        members = (
            world.get_person(i),
            world.get_garment(i + 100),
            world.get_pose(i),
            world.get_view(i),
        )
        path = folder / f"other{i}.jpg"
        Image.fromarray(world.render_photo(*members).image).save(path, quality=95)
        found.append(PhotoEntry("train", path.name, path))
    return found


COPIES = {
    "re-encoded": lambda image: image.copy(),
    "resized": lambda image: image.resize((61, 81)),
    "brightened": lambda image: Image.fromarray(
        np.clip(np.asarray(image) * 1.06 + 6.0, 0, 255).astype(np.uint8)
    ),
    "darkened": lambda image: Image.fromarray((np.asarray(image) * 0.9).astype(np.uint8)),
    "cut by 1 px": lambda image: image.crop((1, 1, image.width, image.height)),
}


def test_different_people_are_not_duplicates(photos):
    report = find_duplicates(photos)
    assert (report.photos, report.groups, report.unreadable) == (PEOPLE + 4, (), ())
    # and the hashes alone would have mixed up some
    codes = np.array([photo_duplicates.compute_fingerprint(p.path)[0] for p in photos], np.uint64)
    bits = np.bitwise_count(codes[:, None] ^ codes[None])
    assert (bits <= 12).sum() > len(photos)


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found_within_and_across_splits(photos, tmp_path, how):
    copies = []
    for number, split in ((3, "train"), (5, "test"), (18, "test")):
        with Image.open(photos[number].path) as image:
            changed = COPIES[how](image)
        path = tmp_path / f"copy{number}.jpg"
        changed.save(path, quality=60)
        copies.append(PhotoEntry(split, path.stem, path))
    report = find_duplicates([*copies, *photos])
    found = [
        (group.kept.name, [(p.split, p.name) for p, _ in group.others]) for group in report.groups
    ]
    assert found == [
        ("00003.jpg", [("train", "copy3")]),
        ("00005.jpg", [("test", "copy5")]),
        ("00018.jpg", [("test", "copy18")]),
    ]
    write_exclusion_list(tmp_path / "list.json", report)
    written = json.loads((tmp_path / "list.json").read_text())
    assert written["train"] == {"duplicates": ["copy3"]}
    assert written["test"] == {"leaked": ["copy5"], "duplicates": ["copy18"]}
    expected = [("train", "copy3"), ("test", "copy5"), ("test", "copy18")]
    assert sorted(read_exclusion_list(tmp_path / "list.json")) == sorted(expected)
    assert "3 groups of duplicates, 3 to leave out (1 of them" in format_duplicate_report(report)


def test_a_chain_is_one_group(photos, tmp_path):
    with Image.open(photos[0].path) as image:
        pictures = [image.crop((k, 0, image.width, image.height)) for k in range(4)]
    copies = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        copies.append(PhotoEntry("val", f"{number}.png", tmp_path / f"{number}.png"))
    (group,) = find_duplicates(copies).groups
    assert group.kept.name == "0.png" and len(group.others) == 3


def test_blocks_and_brute_force_agree(monkeypatch):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**63, 70).astype(np.uint64)
    codes = np.concatenate([codes, codes[:30] ^ np.uint64(0b1011), codes[:9]])
    thumbs = np.zeros((len(codes), 16, 16, 3), np.uint8)
    # blocks of 19 rows
    monkeypatch.setattr(photo_duplicates, "PAIRS_PER_BLOCK", 19 * len(codes))
    found = photo_duplicates._labels(codes, thumbs, 3)
    first = list(range(len(codes)))
    numbers = [int(code) for code in codes]
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if (numbers[i] ^ numbers[j]).bit_count() <= 3:
                a, b = sorted((first[i], first[j]))
                first = [a if label == b else label for label in first]
    assert found.tolist() == first and len(set(first)) == 70


def test_unreadable_photos_are_named(photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    report = find_duplicates([PhotoEntry("train", "bad.jpg", bad), *photos[:2]])
    assert [photo.name for photo, _ in report.unreadable] == ["bad.jpg"]
    assert "cannot read bad.jpg" in format_duplicate_report(report)


def test_the_flag_and_the_library_have_one_bound_of_the_distance(photos, tmp_path, capsys):
    expected = "expected an integer from 0 to 32, got"
    with pytest.raises(OmfaError, match=f"--distance: {expected} 33"):
        find_duplicates(photos, max_distance_bits=33)
    flags = ["--raw", str(tmp_path), "--out", str(tmp_path / "list.json"), "--distance=33"]
    assert main(["data", "duplicates", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_the_command_writes_a_list_that_build_reads(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_world(raw, seed=2, counts={"train": 6, "test": 3}, **SIZE)
    with Image.open(raw / "train/image/00002_00.jpg") as image:
        image.save(raw / "test/image/90001_00.jpg", quality=50)
    out = tmp_path / "list.json"
    command = ["data", "duplicates", f"--raw={raw}", f"--out={out}", "--processes=1"]
    assert main(command) == 0
    warnings = []
    items = VitonHD.list_items(str(raw), warnings, clean=out)
    assert {split: len(members) for split, members in items.items()} == {"train": 6, "test": 2}
    assert warnings == ["list.json: left out train 0, test 1"]
    assert main(["data", "duplicates", f"--raw={tmp_path}", f"--out={out}"]) == 2
    assert "raw/ has the layout of viton_hd: use --raw" in capsys.readouterr().err
