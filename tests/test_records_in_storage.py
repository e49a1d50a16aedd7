"""Records in object storage: the bytes of those on a disk, whole or not there, read from there."""

import errno
import json
import pickle
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.checks.check_records import check_records
from omfa_jax.data.pipeline.grain_pipeline import make_train_iterator
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records import shard_cache, shard_reader
from omfa_jax.data.records.pose_groups import load_groups
from omfa_jax.data.records.record_schema import MANIFEST, open_records

SLOTS = {"garment": (16, 16), "person": (16, 16), "face": (8, 8)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("raw"), {"train": 9, "test": 3})


@pytest.fixture(scope="module")
def local(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "records"
    build_records(raw, out, shard_records=4)
    return out


@pytest.fixture(scope="module")
def stored(raw, gs_server):
    out = RemotePath("gs://bucket/records_in_storage/records")
    build_records(raw, out, shard_records=4)
    return out


def read_all(folder) -> dict[str, bytes]:
    if isinstance(folder, RemotePath):
        return {name: (folder / name).read_bytes() for name in folder.list_tree()}
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def batches(records, count=4):
    settings = PipelineSettings(records=str(records), slots=SLOTS)
    tasks = (Task("try_on", ("person",), 1.0, ""),)
    made = make_train_iterator(settings, split="train", batch_size=4, seed=1, tasks=tasks)
    return [{name: np.array(value) for name, value in next(made).items()} for _ in range(count)]


def test_they_have_the_bytes_of_those_on_a_disk(local, stored):
    assert read_all(stored) == read_all(local)
    left = RemotePath("gs://bucket/records_in_storage/.records.partial").list_tree()
    assert {name.split("/")[0] for name in left} == {".lock"}


def test_they_are_read_and_checked_where_they_are(local, stored):
    here, there = open_records(local, "train"), open_records(str(stored), "train")
    assert [there[i] for i in range(9)] == [here[i] for i in range(9)]
    assert check_records(stored).checked == 12
    groups = [load_groups(folder, "train")._numbers for folder in (local, stored)]
    np.testing.assert_array_equal(*groups)
    for ours, theirs in zip(batches(local), batches(stored), strict=True):
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])


def test_they_open_with_one_listing(stored, monkeypatch):
    listed = []

    def record(name, do):
        monkeypatch.setattr(stored.fs, name, lambda *a, **k: listed.append(name) or do(*a, **k))

    for name in ("ls", "find"):
        record(name, getattr(stored.fs, name))
    source = open_records(stored, "train")
    assert len(listed) == 1
    assert [len(source[i].person) > 0 for i in range(9)] == [True] * 9 and len(listed) == 1


@pytest.mark.parametrize("stage", ["shard", "report", "metadata", "manifest", "publish"])
def test_a_fault_in_any_stage_leaves_nothing_that_is_read(raw, local, gs, monkeypatch, stage):
    """And the same command goes on with the shards that are finished."""
    upload, copy, write = RemotePath.upload, RemotePath.copy, RemotePath.write_text
    wanted = {
        "shard": "array_record-00001-of-00003",
        "report": "00001-of-00003.json",
        "metadata": "dataset_info.json",
        "manifest": MANIFEST,
        "publish": MANIFEST,
    }[stage]

    def fail_at(path):
        # to publish is to copy
        if str(path).endswith(wanted):
            raise OSError(errno.EHOSTUNREACH, "the store does not answer", str(path))

    with monkeypatch.context() as patch:
        if stage == "publish":
            patch.setattr(RemotePath, "copy", lambda p, to: (fail_at(to), copy(p, to)))
        else:
            patch.setattr(RemotePath, "upload", lambda p, file: (fail_at(p), upload(p, file)))
            patch.setattr(RemotePath, "write_text", lambda p, t: (fail_at(p), write(p, t)))
        with pytest.raises(OmfaError, match="does not answer"):
            build_records(raw, gs / "records", shard_records=4)
    with pytest.raises(OmfaError, match=r"expected a folder|not a complete records folder"):
        open_records(gs / "records", "train")
    build_records(raw, gs / "records", shard_records=4)
    assert read_all(gs / "records") == read_all(local)


def test_replacing_them_leaves_no_mixture(raw, gs):
    build_records(raw, gs / "records", shard_records=4)
    with pytest.raises(OmfaError, match="already holds records; add --overwrite"):
        build_records(raw, gs / "records")
    build_records(raw, gs / "records", shard_records=9, overwrite=True)
    shards = [name for name in (gs / "records").list_tree() if "array_record" in name]
    assert [name[-14:] for name in shards] == ["00000-of-00001"] * 2
    (gs / "records" / "photo.jpg").touch()
    with pytest.raises(OmfaError, match=r"did not write \(photo\.jpg\)"):
        build_records(raw, gs / "records", overwrite=True)


def test_missing_and_cut_shards_are_noticed_at_the_start(local, stored, gs, tmp_path):
    for copied in (to_path(tmp_path / "records"), gs / "records"):
        for name, content in read_all(local).items():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes(content)
        shard = next(iter(copied.glob("*/*/*train.array_record-00001*")))
        content = shard.read_bytes()
        shard.write_bytes(content[:-1000])
        with pytest.raises(OmfaError, match="one is cut short"):
            open_records(copied, "train")
        shard.unlink()
        with pytest.raises(OmfaError, match=r"1 of 3 shards are missing \(.*00001-of-00003\)"):
            open_records(copied, "train")
        assert len(open_records(copied, "test")) == 3


def test_s3_is_read_through_a_cache_of_shards(local, s3_server, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("OMFA_SHARD_CACHE", str(tmp_path / "cache"))
    stored = RemotePath("s3://bucket/cached")
    for name, content in read_all(local).items():
        (stored / name).write_bytes(content)
    largest = max(size for name, size in stored.list_tree().items() if "array_record" in name)
    # room for one of the three shards
    monkeypatch.setenv("OMFA_SHARD_CACHE_GB", str(1.5 * largest / 1e9))
    shard_cache._say_where.cache_clear()
    here, there = open_records(local, "train"), open_records(stored, "train")
    assert [there[i] for i in range(9)] == [here[i] for i in range(9)]
    assert f"are kept in {tmp_path / 'cache'}" in caplog.text
    assert len(list((tmp_path / "cache").glob("*.array_record"))) == 1
    # another content under the same name is another file
    assert len({shard_cache.fetch(p) for p in [*stored.rglob("*train*-00000-*")] * 2}) == 1
    monkeypatch.setenv("OMFA_SHARD_CACHE_GB", "0.000001")
    with pytest.raises(OmfaError, match="more than the cache of shards may have"):
        open_records(stored, "train")[0]
    monkeypatch.setenv("OMFA_SHARD_CACHE_GB", "much")
    with pytest.raises(OmfaError, match="expected gigabytes, 0 or more, got 'much'"):
        open_records(stored, "train")[0]


@pytest.fixture
def gs_copies(gs_server, tmp_path, monkeypatch, caplog):
    """The folder of copies, and nothing reserved in it."""
    caplog.set_level("INFO")
    monkeypatch.setattr(shard_cache, "_reserved", {})
    monkeypatch.setenv("OMFA_SHARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read_all_paths(source):
    """Return the records, and the kinds of paths they were read from."""
    records = [source[i] for i in range(9)]
    return records, {type(path).__name__ for _, path in source._source._open.values()}


def wait_for_copies(source):
    while (thread := source._source._copies._thread) is not None:
        thread.join()


def test_training_reads_gs_from_copies_once_they_are_made(local, stored, gs_copies):
    here, there = open_records(local, "train"), open_records(stored, "train")
    there.copy_in_background()
    expected, _ = read_all_paths(here)
    assert read_all_paths(there)[0] == expected
    wait_for_copies(there)
    assert read_all_paths(there) == (expected, {"PosixPath"})
    # as in a worker process, and after another process made room
    again = pickle.loads(pickle.dumps(there))
    for copy in gs_copies.glob("*.array_record"):
        copy.unlink()
    assert read_all_paths(again)[0] == expected
    wait_for_copies(again)
    assert read_all_paths(again) == (expected, {"PosixPath"})


def test_the_training_iterator_asks_for_copies(local, monkeypatch):
    asked = []
    monkeypatch.setattr(
        shard_reader.ShardReader, "copy_in_background", lambda _, size: asked.append(size)
    )
    batches(local, count=1)
    assert asked == [sum(p.stat().st_size for p in local.rglob("*train.array_record*"))]


def test_what_cannot_be_copied_is_read_in_the_bucket(local, stored, gs_copies, monkeypatch, caplog):
    expected, _ = read_all_paths(open_records(local, "train"))
    source = open_records(stored, "train")
    with monkeypatch.context() as patch:
        patch.setenv("OMFA_SHARD_CACHE_GB", "0.000001")
        source.copy_in_background()
    assert source._source._copies is None
    assert "is read in the bucket, a request for each record" in caplog.text

    def fail(path, file):
        raise OSError(errno.ENOSPC, "no space left", file)

    source.copy_in_background()
    monkeypatch.setattr(RemotePath, "download", fail)
    assert read_all_paths(source) == (expected, {"RemotePath"})
    wait_for_copies(source)
    assert read_all_paths(source) == (expected, {"RemotePath"})
    assert caplog.text.count("read in the bucket from here on, not copied") == 1


def test_copies_stay_within_the_room_they_share(gs_copies, monkeypatch):
    first, second = RemotePath("gs://bucket/first"), RemotePath("gs://bucket/second")
    monkeypatch.setenv("OMFA_SHARD_CACHE_GB", "0.001")
    assert shard_cache.reserve_room(first, 600_000)
    assert not shard_cache.reserve_room(second, 600_000)
    assert shard_cache.reserve_room(second, 300_000) and shard_cache.reserve_room(first, 700_000)
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    assert not shard_cache.reserve_room(second, 300_001)
    monkeypatch.setenv("OMFA_SHARD_CACHE_GB", "0")
    assert not shard_cache.reserve_room(first, 1)


def test_more_shards_than_files_may_be_open(raw, tmp_path, monkeypatch):
    build_records(raw, tmp_path / "records", shard_records=1)
    monkeypatch.setattr(shard_reader, "get_most_open_files", lambda: 2)
    source = open_records(tmp_path / "records", "train")
    assert len({source[i].key for i in (*range(9), *range(9))}) == 9
    assert len(source._source._open) == 2


def test_the_limit_of_open_files_is_raised(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    shard_reader.get_most_open_files.cache_clear()
    assert shard_reader.get_most_open_files() == 2048 and asked == [(4096, 4096)]
    shard_reader.get_most_open_files.cache_clear()


def test_commands_take_urls(raw, gs, capsys, tmp_path):
    out = gs / "records"
    assert main(["data", "build", f"--raw={raw}", f"--out={out}"]) == 0
    # the generated photos have faults of their own
    assert main(["data", "check", f"--records={out}"]) == 2
    assert "found 8 faults, listed above" in capsys.readouterr().err
    assert main(["data", "show", f"--records={out}", f"--out={tmp_path}/sheet.png"]) == 0
    assert main(["data", "build", f"--raw={raw}", "--out=gs://no-such-bucket/r"]) == 2
    assert "gs://no-such-bucket/" in capsys.readouterr().err
    assert json.loads((out / MANIFEST).read_text())["splits"] == {"train": 9, "test": 3}
    assert not Path("gs:").exists()
    assert main(["data", "build", f"--raw={raw}", "--out=gs://"]) == 2
    assert "expected gs://BUCKET/FOLDER" in capsys.readouterr().err
