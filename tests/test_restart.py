"""Builds and latents that are killed go on where they were and end in the same bytes."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_viton as tiny

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.records_builder import ImageShardSource
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import shards
from omfa_jax.data.records.record_schema import open_records
from omfa_jax.data.records.staging import StagingFolder, open_staging_folder

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
SETTINGS: dict[str, Any] = {"slots": SLOTS, "vae_id": "v", "batch_size": 2, "shard_records": 3}
PEOPLE = {"train": 13, "val": 1, "test": 5}
SHARD = 3

# the real code, slowed down so that a kill meets it in the middle; any shard may be hit
BUILD = """
import sys, time
from omfa_jax.data.builders import build_records as module, viton_hd

class Slow(viton_hd.VitonHD, skip_registration=True):
    name = "viton_hd"

    @staticmethod
    def read(item):
        time.sleep(0.05)
        return viton_hd.VitonHD.read(item)

module.BUILDERS["viton_hd"] = Slow
if __name__ == "__main__":
    module.build_records(sys.argv[1], sys.argv[2], processes=int(sys.argv[3]), shard_records=3)
"""
LATENTS = """
import sys, time
from omfa_jax.data.pipeline.latent_writer import write_latents
from test_restart import SETTINGS, encode

def slow(pictures):
    time.sleep(0.1)
    return encode(pictures)

write_latents(*sys.argv[1:], slow, **SETTINGS)
"""


def encode(pictures):
    """Return block means over 8 x 8 px and deviations from them."""
    b, h, w, _ = pictures.shape
    blocks = pictures.reshape(b, h // 8, 8, w // 8, 8, 3)
    return blocks.mean((2, 4)), blocks.std((2, 4))


def files(folder):
    root = Path(folder)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = tiny.write_raw(tmp_path_factory.mktemp("raw") / "raw", PEOPLE)
    (raw / "train/image/00004_00.jpg").write_bytes(b"")
    (raw / "val/image/00000_00.jpg").write_bytes(b"")
    for name in ("00000_00", "00003_00", "00007_00", "00008_00"):
        (raw / f"train/pose/{name}.png").unlink()
    return raw


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "records"
    return out, build_records(raw, out, shard_records=SHARD)


def partial(out):
    return out.with_name(f".{out.name}.partial")


def shards_in(out):
    return sorted(partial(out).glob("records/*/*/*.array_record-*"))


def killed(script, *arguments, out, finished):
    """Run the script in a process of its own and kill -9 it when so many shards are there."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.getcwd()}"}
    path = out.with_name("script.py")
    path.write_text(script)
    command = [sys.executable, str(path), *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(shards_in(out)) < finished:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_build_ends_in_the_same_bytes(raw, undisturbed, tmp_path, processes, caplog):
    out = tmp_path / "records"
    killed(BUILD, raw, out, processes, out=out, finished=2)
    # a worker may outlive its parent by a moment
    time.sleep(0.3 * (processes - 1))
    before = {path.name: path.stat().st_ino for path in shards_in(out)}
    assert 2 <= len(before) < 8
    caplog.set_level("INFO")
    report = build_records(raw, out, processes=processes, shard_records=SHARD)
    assert "of 8 shards were kept from an earlier run" in caplog.text
    assert report == undisturbed[1] and files(out) == files(undisturbed[0])
    after = {path.name: path.stat().st_ino for path in out.rglob("*.array_record-*")}
    kept = [name for name in before if "val" not in name]
    # a kill may come between a shard and its report
    assert sum(before[name] == after[name] for name in kept) >= len(kept) - processes
    assert not partial(out).exists()


def test_killed_latents_end_in_the_same_bytes(undisturbed, tmp_path):
    records, whole = undisturbed[0], tmp_path / "whole"
    write_latents(records, whole, encode, **SETTINGS)
    out = tmp_path / "latents"
    killed(LATENTS, records, out, out=out, finished=2)
    encoded = []

    def counting(pictures):
        encoded.append(len(pictures))
        return encode(pictures)

    write_latents(records, out, counting, **SETTINGS)
    assert files(out) == files(whole)
    # of 6 shards with 2 batches (the last one has 1 of 2 rows) at least 1 was not encoded again
    assert len(encoded) <= 4 * 2 * 5


def test_the_report_is_whole_whoever_wrote_it(undisturbed):
    report = undisturbed[1]
    assert (report.found, report.built_per_split) == (19, {"train": 12, "test": 5})
    assert [key for key, _ in report.skipped] == ["train/00004_00", "val/00000_00"]
    expected = "train: 4 (00000_00, 00003_00, 00007_00, ...) of 12 records: no pose map"
    assert report.warnings == [expected]


@pytest.mark.parametrize("shard_records", [1, 5, 100])
def test_shards_hold_the_items_in_order(raw, tmp_path, shard_records, undisturbed):
    build_records(raw, tmp_path / "out", shard_records=shard_records)
    keys = [record.key for record in open_records(tmp_path / "out", "train")]
    assert keys == [record.key for record in open_records(undisturbed[0], "train")]
    names = [path.name for path in (tmp_path / "out").rglob("*-train.array_record-*")]
    assert len(names) == -(-13 // shard_records)


def test_tfds_itself_writes_the_same_records(raw, undisturbed, tmp_path):
    """The oracle: TFDS's own writer, fed by the same builder; its bytes are another each time."""
    builder: Any = VitonHD(
        raw_dir=str(raw), shard_records=SHARD, data_dir=tmp_path, file_format="array_record"
    )
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    ours: Any = tfds.builder_from_directory(undisturbed[0] / "viton_hd/1.0.0")
    assert str(ours.info.features) == str(builder.info.features)
    for split, count in {"train": 12, "test": 5}.items():
        info, theirs = ours.info.splits[split], builder.info.splits[split]
        assert info.shard_lengths == theirs.shard_lengths
        names = [Path(path).name for path in theirs.filepaths]
        assert [Path(path).name for path in info.filepaths] == names
        ours_read, theirs_read = (b.as_data_source(split=split) for b in (ours, builder))
        assert len(ours_read) == count
        for record, other in zip(ours_read, theirs_read, strict=True):
            assert record.keys() == other.keys()
            assert all(np.array_equal(record[name], other[name]) for name in record)


def interrupted(raw, out, after, monkeypatch, **options):
    """Build until so many shards are there."""
    write, written = shards.write_shard, []

    def stop(*arguments, **more):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(arguments[2])
        return write(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr("omfa_jax.data.records.shard_runners.write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            build_records(raw, out, shard_records=SHARD, **options)
    return written


@pytest.mark.parametrize("damage", ["cut", "flipped", "no report", "torn report", "no items"])
def test_damaged_leftovers_are_not_trusted(raw, undisturbed, tmp_path, monkeypatch, damage, caplog):
    out = tmp_path / "records"
    written = interrupted(raw, out, 2, monkeypatch)
    folder = StagingFolder(partial(out), "viton_hd/1.0.0")
    path, report = (
        folder.get_shard_path(written[0].file_name),
        folder.get_report_path(written[0].file_name),
    )
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "flipped":
        turned = bytearray(path.read_bytes())
        turned[len(turned) // 2] ^= 1
        path.write_bytes(turned)
    elif damage == "no report":
        report.unlink()
    elif damage == "torn report":
        report.write_text(report.read_text()[:20])
    else:
        folder.get_items_path(written[0].file_name).unlink()
    (folder.temporary / "tmptorn_0_1").write_bytes(b"x")
    build_records(raw, out, shard_records=SHARD)
    assert files(out) == files(undisturbed[0])
    assert ("1 shards of an earlier run were rewritten" in caplog.text) == (damage != "no items")


def test_changed_raw_files_are_noticed(tmp_path, monkeypatch, caplog):
    raw, out = tiny.write_raw(tmp_path / "raw", {"train": 9}), tmp_path / "records"
    interrupted(raw, out, 2, monkeypatch)
    (raw / "train/image/00001_00.jpg").write_bytes((raw / "train/cloth/00002_00.jpg").read_bytes())
    build_records(raw, out, shard_records=SHARD)
    assert "1 shards of an earlier run were rewritten" in caplog.text
    build_records(raw, tmp_path / "anew", shard_records=SHARD)
    assert files(out) == files(tmp_path / "anew")


def test_another_item_list_or_shard_size_starts_afresh(tmp_path, monkeypatch, caplog):
    raw, out = tiny.write_raw(tmp_path / "raw", {"train": 9}), tmp_path / "records"
    interrupted(raw, out, 2, monkeypatch)
    lines = (raw / "train_pairs.txt").read_text().splitlines()
    (raw / "train_pairs.txt").write_text("\n".join(lines[1:5]))
    build_records(raw, out, shard_records=SHARD)
    assert "deleting 2 shards of another data set, item list or --shard-records" in caplog.text
    build_records(raw, tmp_path / "anew", shard_records=SHARD)
    assert files(out) == files(tmp_path / "anew")


def test_a_kill_between_the_last_two_renames_loses_nothing(raw, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "records"
    build_records(raw, out)
    rename, calls = Path.rename, []

    def stop(self, target):
        calls.append(target)
        if len(calls) >= 2:  # a killed process puts nothing back
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            build_records(raw, out, shard_records=SHARD, overwrite=True)
    assert not out.exists() and (partial(out) / "old").is_dir()
    build_records(raw, out, shard_records=SHARD, overwrite=True)
    assert files(out) == files(undisturbed[0]) and not partial(out).exists()


def test_a_folder_has_one_writer(raw, tmp_path):
    refused = pytest.raises(OmfaError, match="another run is writing")
    with open_staging_folder(tmp_path / "out", "viton_hd/1.0.0") as first, refused:
        build_records(raw, tmp_path / "out")
    assert first.folder.is_dir()


def test_records_in_memory_do_not_grow_with_their_number(raw, undisturbed, tmp_path):
    """Of 12 records no more than 2 are alive at any time."""
    refs, most = [], 0

    class Watched(VitonHD, skip_registration=True):
        name = "viton_hd"

        @staticmethod
        def read(item):
            nonlocal most
            record, flaws = VitonHD.read(item)
            refs.append(weakref.ref(record))
            most = max(most, sum(ref() is not None for ref in refs))
            return record, flaws

    with open_staging_folder(tmp_path / "out", "viton_hd/1.0.0") as folder:
        source = ImageShardSource(Watched, folder, str(raw))
        items = VitonHD.list_items(str(raw), [])["train"]
        (shard,) = shards.plan_shards("viton_hd", {"train": 13}, 100)
        source.store_items(shard, items)
        shards.write_shard(folder, source, shard)
    assert len(refs) == 12 and most <= 2
