"""Data commands fed with what nobody should feed them: one line, status 2, and no trace of it."""

import json
import os
import shutil
import struct
import warnings
import zlib
from functools import partial
from pathlib import Path

import pytest
import tiny_viton as tiny

from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.importers.importer_common import ImportOptions
from omfa_jax.body.importers.importer_table import IMPORTERS
from omfa_jax.body.keypoints.keypoint_reader import read_keypoints
from omfa_jax.body.pose_library import load_pose_library
from omfa_jax.body.pose_maps import find_folders, find_styles
from omfa_jax.cli.main import main
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_writable_file
from omfa_jax.core.process_pool import ordered_map
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.exclusion_list import read_exclusion_list
from omfa_jax.data.builders.keypoint_photos import find_photos
from omfa_jax.data.records.record_schema import read_manifest

DEEP = "[" * 100_000
POSES = ["data", "poses", "--backend=zbuffer", "--processes=1"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("hostile") / "raw", {"train": 3, "test": 1})


def fails(arguments, words: str, capsys, status: int = 2) -> None:
    assert main([str(argument) for argument in arguments]) == status
    told = capsys.readouterr().err.strip()
    assert words in told and len(told.splitlines()) == 1, told


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"a": ', "not JSON"),
        (DEEP, "nested too deeply"),
        ("[1]", "at least one pose"),
        ('{"../../outside": {}}', "../../outside: expected a name"),
        ('{".hidden": {}}', "expected a name"),
        ('{"": {}}', "expected a name"),
        ('{"p": {"joints": 5}}', "p: joints: expected an object"),
        ('{"p": {"head_deg": "x"}}', "p: head_deg"),
    ],
)
def test_a_bad_library_leaves_nothing(tmp_path, capsys, written, words):
    library, out = tmp_path / "library.json", tmp_path / "out"
    library.write_text(written)
    fails([*POSES, "--poses=all", f"--library={library}", f"--out={out}"], words, capsys)
    assert list(tmp_path.iterdir()) == [library]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--poses=all", "--style=x"], "unknown pose map style 'x'"),
        (["--poses=all", "--backend=x"], "unknown render backend 'x'"),
        (["--poses=all", "--processes=0"], "--processes: expected an integer from 1"),
        (["--poses=nobody"], "unknown pose"),
        (["--poses=all", "--size=0x9"], "--size: expected"),
        (["--turntable=0"], "--turntable: expected an integer from 1"),
        (["--turntable=2", "--body=absent.npz"], "expected a file at absent.npz"),
        (["--turntable=2", "--smplx-model=absent.npz"], "change --smplx-model"),
    ],
)
def test_bad_targets_leave_nothing(tmp_path, capsys, flags, words):
    fails([*POSES, *flags, f"--out={tmp_path / 'out'}"], words, capsys)
    assert not list(tmp_path.iterdir())


def body(path: Path) -> Path:
    camera = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=60.0, width_px=48, height_px=64)
    save_body(path, make_neutral_params(), camera)
    return path


def test_an_empty_split_is_told_before_the_others_are_drawn(tmp_path, capsys):
    body(tmp_path / "train/smplx/a.npz")
    (tmp_path / "val/smplx").mkdir(parents=True)
    # what a kill and what macOS leave are no bodies
    for name in (".b-omfa-abcdefgh.npz", "._a.npz"):
        (tmp_path / "val/smplx" / name).write_bytes(b"half")
    fails([*POSES, f"--raw={tmp_path}"], f"no *.npz body file in {tmp_path}/val/smplx", capsys)
    assert not (tmp_path / "train/pose").exists() and not (tmp_path / "val/pose").exists()


def test_splits_behind_links_are_drawn_once_and_loops_do_no_harm(tmp_path):
    raw, disk = tmp_path / "raw", tmp_path / "disk"
    raw.mkdir()
    body(disk / "smplx/a.npz")
    os.symlink(disk, raw / "train")
    os.symlink(raw, raw / "loop")
    assert find_folders("smplx", raw) == [raw / "train/smplx"]
    assert main([*POSES, f"--raw={raw}", "--style=parts"]) == 0
    assert (disk / "pose/a.png").is_file() and find_styles(raw) == ["parts"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train=0"], "are all 0"),
        (["--train=-1"], "--train: expected an integer from 0"),
        (["--train=1", "--processes=0"], "--processes: expected an integer from 1"),
        (["--train=1", "--height=15"], "--height: expected an integer from 16"),
        (["--train=1", "--dataset=x"], "unknown data set"),
    ],
)
def test_impossible_worlds_leave_nothing(tmp_path, capsys, flags, words):
    none = ["--val=0", "--test=0", "--height=64", "--width=48", f"--out={tmp_path / 'world'}"]
    fails(["data", "synthesize", *none, *flags], words, capsys)
    assert not list(tmp_path.iterdir())


def test_a_world_is_not_mixed_with_a_data_set(raw, tmp_path, capsys):
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    words = "holds files that do not belong to a synthetic data set (test, test_pairs.txt, train"
    fails(["data", "synthesize", f"--out={mine}", "--train=1"], words, capsys)
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


def test_brackets_without_end_are_damage_and_no_crash(tmp_path):
    file = tmp_path / "deep.json"
    file.write_text(DEEP)
    for read in (partial(read_keypoints, size_px=(9, 9)), read_exclusion_list, load_pose_library):
        with pytest.raises(OmfaError, match="nested too deeply"):
            read(file)
    (tmp_path / "omfa_records.json").write_text(DEEP)
    with pytest.raises(OmfaError, match="nested too deeply"):
        read_manifest(tmp_path)


def png_of(width: int, height: int) -> bytes:
    """Return a small PNG file that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("size", [(20_000, 20_000), (16_000, 9_000)])
@pytest.mark.parametrize("strict", [True, False])
def test_pictures_that_would_fill_the_memory_are_named(raw, tmp_path, size, strict):
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    (mine / "train/image/00000_00.jpg").write_bytes(png_of(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        report = build_records(mine, tmp_path / "records")
        photo = find_photos(mine, "viton_hd", [])[mine / "train"][0]
        with pytest.raises(OmfaError, match="too large"):
            photo.read_size_px()
    ((key, reason),) = report.skipped
    assert key == "train/00000_00" and "more than 89 megapixels" in reason


def test_lists_do_not_lead_out_of_the_data_set(raw, tmp_path):
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    images.write_image(tmp_path / "secret.jpg", tiny.photo(0))
    pairs = "../../../secret.jpg 00000_00.jpg\n00000_00.jpg /etc/x.jpg\n00001_00.jpg 00001_00.jpg\n"
    (mine / "train_pairs.txt").write_text(pairs)
    report = build_records(mine, tmp_path / "records")
    assert report.built_per_split == {"train": 1, "test": 1}
    assert sum("expected names without a path" in line for line in report.warnings) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("empty", "one is cut short"),
        ("half", "one is cut short"),
        ("gone", "1 of 1 shards are missing"),
        ("other", "record 0 cannot be read"),
    ],
)
def test_damaged_records_are_one_line(raw, tmp_path, capsys, damage, words):
    build_records(raw, tmp_path / "records")
    (shard,) = (tmp_path / "records").rglob("*-train.array_record*")
    whole = shard.read_bytes()
    shard.unlink()
    left = {"half": whole[: len(whole) // 2], "empty": b"", "other": b"x" * len(whole)}
    if damage != "gone":
        shard.write_bytes(left[damage])
    out = tmp_path / "sheet.png"
    command = ["data", "show", f"--records={tmp_path / 'records'}", f"--out={out}"]
    fails(command, words, capsys)
    assert not out.exists()


def test_outputs_that_cannot_be_are_told_before_the_work(raw, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("x")
    for out, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "file/list.json", "is a file"),
        (tmp_path / "file/deeper/list.json", "is a file"),
    ):
        fails(["data", "duplicates", f"--raw={raw}", f"--out={out}"], words, capsys)
    # root may write where others may not
    monkeypatch.setattr("omfa_jax.core.atomic_files.os.access", lambda *_: False)
    with pytest.raises(OmfaError, match="is not writable; give another name to --out"):
        require_writable_file(tmp_path / "new/list.json", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["build", "check", "duplicates"])
def test_no_processes_are_refused(raw, tmp_path, capsys, command):
    out = [] if command == "check" else [f"--out={tmp_path / 'out'}"]
    arguments = ["data", command, f"--raw={raw}", *out, "--processes=0"]
    fails(arguments, "--processes: expected an integer from 1", capsys)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OmfaError, match="--processes"):
        list(ordered_map(len, ["x"], -1))


def test_a_frame_without_a_name_costs_itself_alone(tmp_path):
    (tmp_path / "smplx").mkdir()
    (tmp_path / "meta").mkdir()
    (tmp_path / "smplx/a_0.npz").write_bytes(b"")
    (tmp_path / "meta/a_0.json").write_text(json.dumps({"img_path": 5}))
    source = IMPORTERS["smplerx"](tmp_path, ImportOptions(False, load_body_model(), None))
    assert list(source.frames) == ["5"]
