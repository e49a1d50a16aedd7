"""Paths, whole writes, logs and locks on gs:// and s3://, against servers on loopback."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from omfa_jax.core import append_only, storage_lock
from omfa_jax.core.append_only import AppendOnlyFile, read_json_lines
from omfa_jax.core.atomic_dirs import atomic_dir
from omfa_jax.core.atomic_files import LOCK_NAME, atomic_write, exclusive_lock, is_locked
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import NO_RESTART, RESTART, classify_error
from omfa_jax.core.path_checks import require_any_dir, require_any_file, require_any_writable_dir
from omfa_jax.core.paths import is_remote, local_copy, local_copy_of_folder, to_path
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.core.storage_errors import translate_errors


def test_a_url_is_a_path_that_joins_and_splits_as_others():
    place = to_path("gs://bucket/run") / "a" / "b.tar.gz"
    assert str(place) == f"{place}" == os.fspath(place) == "gs://bucket/run/a/b.tar.gz"
    assert (place.name, place.suffix, place.stem) == ("b.tar.gz", ".gz", "b.tar")
    assert place.parent == RemotePath("gs://bucket/run/a") and place.absolute() is place
    assert place.with_name("c") == RemotePath("gs://bucket/run/a/c")
    assert str(place.relative_to("gs://bucket/run")) == "a/b.tar.gz"
    assert (place.scheme, place.bucket, place.key) == ("gs", "bucket", "run/a/b.tar.gz")
    assert pickle.loads(pickle.dumps(place)) == place
    assert is_remote("s3://b/x") and not is_remote("b/x")
    assert to_path("b/x") == Path("b/x")
    # what is left when somebody has put it through pathlib
    assert to_path(Path("gs://bucket/run")) == RemotePath("gs://bucket/run")


@pytest.mark.parametrize("url", ["hf://a/b", "https://a/b", "az://a/b"])
def test_other_urls_are_refused(url):
    with pytest.raises(OmfaError, match="is not supported"):
        to_path(url)


def test_gcsfs_asks_no_second_client_at_every_listing():
    gcsfs = pytest.importorskip("gcsfs")
    assert gcsfs.GCSFileSystem.__module__ == "gcsfs.core"


def test_objects_are_files_and_prefixes_folders(store):
    (store / "a.txt").write_text("hä")
    (store / "d" / "b.bin").write_bytes(b"1234")
    assert (store / "a.txt").read_text() == "hä" and (store / "a.txt").stat().st_size == 3
    assert list(store.iterdir()) == [store / "a.txt", store / "d"]
    assert store.list_sizes() == [("a.txt", 3), ("d", None)]
    assert store.list_tree() == {"a.txt": 3, "d/b.bin": 4}
    assert list(store.glob("*.txt")) == [store / "a.txt"]
    assert list(store.glob("*/*.bin")) == list(store.rglob("*.bin")) == [store / "d" / "b.bin"]
    assert store.is_dir() and not store.is_file() and (store / "d").exists()
    assert (store / "a.txt").is_file() and not (store / "a.txt").is_dir()
    with (store / "lines").open("w") as file:
        file.write("1\n2\n")
    with (store / "lines").open() as file:
        assert list(file) == ["1\n", "2\n"]
    with (store / "d" / "b.bin").open("rb") as file:
        file.seek(1)
        assert file.read(2) == b"23"
    with local_copy(store / "a.txt") as local:
        assert local.read_text() == "hä" and local.name == "a.txt"
    with local_copy_of_folder(store) as local:
        assert (local / "d" / "b.bin").read_bytes() == b"1234"
    store.rmtree()
    assert not store.exists()


def test_what_another_process_writes_is_seen_at_once(store):
    (store / "one").touch()
    assert [p.name for p in store.iterdir()] == ["one"]
    code = f"from omfa_jax.core.paths import to_path; to_path('{store}/two').write_text('x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [p.name for p in store.iterdir()] == ["one", "two"]


def test_a_block_that_fails_publishes_nothing(store):
    with pytest.raises(RuntimeError), (store / "half").open("wb") as file:
        file.write(b"x" * 1000)
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_write(store / "half") as local:
        local.write_bytes(b"x")
        raise RuntimeError
    assert not (store / "half").exists()


def test_of_two_that_create_one_succeeds(store):
    assert (store / "x").create(b"1") and not (store / "x").create(b"2")
    assert (store / "x").read_bytes() == b"1"


def test_errors_name_the_object_and_have_an_errno(store):
    for call in (
        (store / "no").read_bytes,
        lambda: list((store / "no").iterdir()),
        RemotePath(f"{store.scheme}://no-such-bucket/x").read_bytes,
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.errno == errno.ENOENT and "://" in str(caught.value)
    (store / "no").unlink(missing_ok=True)
    with pytest.raises(OmfaError, match=r"found nothing; change --x"):
        require_any_file(store / "no", "weights", "--x")
    (store / "d" / "e").touch()
    with pytest.raises(OmfaError, match=r"expected a file at .*, found a folder"):
        require_any_file(store / "d", "weights", "--x")
    assert require_any_dir(store / "d", "a run", "--x") == store / "d"
    assert require_any_writable_dir(store / "new", "--x") == store / "new"
    assert not (store / "new").exists()


class _StatusError(Exception):
    def __init__(self, code):
        self.code = code


class ClientError(Exception):
    """As botocore's, by its name and attribute."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("make", [_StatusError, ClientError])
@pytest.mark.parametrize(
    ("status", "exit_status"),
    [(401, NO_RESTART), (403, NO_RESTART), (429, RESTART), (503, RESTART)],
)
def test_a_status_becomes_the_fault_that_it_is(make, status, exit_status):
    with pytest.raises(OSError, match=f"HTTP {status}") as caught, translate_errors("gs://b/x"):
        raise make(status)
    assert classify_error(caught.value).status == exit_status
    assert caught.value.filename == "gs://b/x"


@pytest.mark.parametrize("ask", ["exists", "is_file", "is_dir"])
def test_a_store_that_does_not_answer_is_not_an_empty_one(gs, monkeypatch, ask):
    def fail(path):
        raise _StatusError(503)

    monkeypatch.setattr(gs.fs, "info", fail)
    with pytest.raises(OSError, match="HTTP 503"):
        getattr(gs, ask)()


class TestFolders:
    PATTERNS = ("mark.json", "params/*.bin")

    def write(self, place, names, text="1"):
        with atomic_dir(place, self.PATTERNS) as folder:
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text)

    def test_a_folder_is_replaced_whole(self, store):
        self.write(store / "m", ["mark.json", "params/a.bin", "params/b.bin"])
        self.write(store / "m", ["mark.json", "params/b.bin"], "2")
        assert list((store / "m").list_tree()) == ["mark.json", "params/b.bin"]
        assert (store / "m" / "params" / "b.bin").read_text() == "2"

    def test_the_mark_goes_first_and_comes_last(self, store, monkeypatch):
        self.write(store / "m", ["mark.json", "params/a.bin"])

        def fail(path, file):
            raise OSError(errno.EHOSTUNREACH, "the store does not answer", str(path))

        monkeypatch.setattr(RemotePath, "upload", fail)
        with pytest.raises(OmfaError, match="does not answer"):
            self.write(store / "m", ["mark.json", "params/b.bin"])
        monkeypatch.undo()
        assert not (store / "m" / "mark.json").exists()
        # and what such a kill leaves is written over
        self.write(store / "m", ["mark.json"])
        assert list((store / "m").list_tree()) == ["mark.json"]

    def test_what_others_wrote_stays(self, store):
        (store / "m" / "photo.jpg").touch()
        with pytest.raises(OmfaError, match=r"did not write \(photo\.jpg\)"):
            self.write(store / "m", ["mark.json"])
        with pytest.raises(OmfaError, match="is a whole bucket"):
            self.write(RemotePath(f"{store.scheme}://bucket"), ["mark.json"])


class TestLogs:
    def test_lines_are_appended_over_restarts(self, store):
        log = store / "metrics.jsonl"
        first = AppendOnlyFile(log, lines=True)
        first.append(b'{"step": 1}\n')
        # the first piece at once, the others together: an object is written again whole
        first.append(b'{"step": 2}\n')
        assert [row["step"] for _, row in read_json_lines(log)] == [1]
        first.close()
        log.write_bytes(log.read_bytes() + b'{"st')
        second = AppendOnlyFile(log, lines=True)
        second.append(b'{"step": 3}\n')
        second.flush()
        assert [row["step"] for _, row in read_json_lines(log)] == [1, 2, 3]

    def test_a_failed_write_loses_nothing(self, gs, monkeypatch):
        log = AppendOnlyFile(gs / "log", lines=True)

        def fail(path, data):
            raise OSError(errno.EREMOTEIO, "HTTP 503", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(RemotePath, "write_bytes", fail)
            with pytest.raises(OSError, match="503"):
                log.append(b"a\n")
        log.append(b"b\n")
        log.close()
        assert (gs / "log").read_bytes() == b"a\nb\n"

    def test_long_logs_are_written_less_often(self, gs, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(append_only.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(append_only, "_REWRITE_BYTES_S", 10_000)
        log = AppendOnlyFile(gs / "log")
        log.append(b"x" * 1_000_000)
        for seconds, is_written in ((31, False), (99, False), (101, True)):
            now[0] = 100.0 + seconds
            log.append(b"y")
            assert log._is_written is is_written


class TestLocks:
    def hold(self, folder, beat_s=0.1, lost_after_s=1.0):
        return storage_lock.storage_lock(folder, "in use", beat_s, lost_after_s)

    def test_a_living_holder_is_not_disturbed(self, store):
        with self.hold(store):
            assert is_locked(store)
            with pytest.raises(OmfaError, match=r"in use \(process \d+ of .* has it\)"):
                self.hold(store).__enter__()
        assert not is_locked(store)
        with self.hold(store):
            pass

    def test_of_many_one_gets_it(self, gs):
        inside, most, refused = [], [], []
        barrier = threading.Barrier(6)

        def take():
            barrier.wait()
            try:
                with self.hold(gs):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(1.5)
                    inside.pop()
            except OmfaError:
                refused.append(1)

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] and len(refused) == 5

    def test_a_dead_process_of_this_host_is_succeeded_at_once(self, gs):
        code = (
            "import os, sys; from omfa_jax.core.storage_lock import storage_lock\n"
            "from omfa_jax.core.paths import to_path\n"
            "with storage_lock(to_path(sys.argv[1]), 'in use'): os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", code, str(gs)])
        assert not is_locked(gs)
        before = time.monotonic()
        with self.hold(gs, lost_after_s=1000):
            assert time.monotonic() - before < 60

    def test_a_silent_process_of_another_host_is_succeeded_and_then_ends(self, gs, monkeypatch):
        ended = []
        monkeypatch.setattr(storage_lock.os, "_exit", ended.append)
        monkeypatch.setattr(storage_lock, "_is_gone_from_host", lambda held: False)
        # no beat before the other has given it up
        first = self.hold(gs, beat_s=1.5)
        first.__enter__()
        with self.hold(gs, lost_after_s=0.3):
            deadline = time.monotonic() + 20
            while not ended and time.monotonic() < deadline:
                time.sleep(0.05)
        assert ended[0] == RESTART
        first.__exit__(None, None, None)

    def test_the_lock_of_a_run_is_that_of_its_folder(self, gs):
        with exclusive_lock(gs / LOCK_NAME):
            assert is_locked(gs)
