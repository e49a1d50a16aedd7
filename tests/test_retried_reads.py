"""Reads of a file system that hesitates are tried again; what stays broken requeues the job."""

import os
import pickle

import pytest
import tiny_viton as tiny

from omfa_jax.core import retry
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import NETWORK, classify_error
from omfa_jax.core.images import open_image
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.records import record_schema
from omfa_jax.weights.tensor_files import read_json


@pytest.fixture
def waited(monkeypatch):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    return waits


class Server:
    """Record files behind a network: the first `faults` reads of every copy's life fail."""

    left = 0

    def __init__(self, source):
        self.source, self.is_stale = source, False

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        # a stale handle stays stale; only files that are opened anew can be read
        if Server.left > 0:
            Server.left -= 1
            self.is_stale = True
        if self.is_stale:
            raise OSError(116, "Stale file handle")
        return self.source[index]

    def __setstate__(self, state):
        self.__dict__ |= state | {"is_stale": False}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("retried")
    build_records(tiny.write_raw(root / "raw", {"train": 2}), root / "records")
    return root / "records"


def test_a_record_is_read_again_from_files_opened_anew(records, waited, caplog):
    source = record_schema.open_records(records, "train")
    served = record_schema.RecordSource("images", Server(source._source), "records:train")
    Server.left = 2
    assert served[1].key == source[1].key
    assert waited == list(retry.BACKOFF_S[:2])
    assert "records:train: record 1: [Errno 116] Stale file handle" in caplog.text
    Server.left = 100
    with pytest.raises(OmfaError, match="record 1 cannot be read") as told:
        served[1]
    assert classify_error(told.value) == NETWORK and "build again" not in str(told.value)
    # Grain's workers send it so
    assert classify_error(pickle.loads(pickle.dumps(told.value))) == NETWORK
    Server.left = 0


def test_a_damaged_record_is_not_waited_for(records, waited):
    class Damaged(list):
        def __getitem__(self, index):
            return b"not a record"

    with pytest.raises(OmfaError, match="build again") as told:
        record_schema.RecordSource("images", Damaged([1]), "r")[0]
    assert classify_error(told.value).status == 2 and not waited


def failing(monkeypatch, name, times):
    """Let a method of Path fail so many times with EIO."""
    target, left = f"pathlib.Path.{name}", [times]
    real = getattr(__import__("pathlib").Path, name)

    def read(path, *arguments, **options):
        if left[0] > 0 and path.name in ("omfa_records.json", "omfa.json", "a.png"):
            left[0] -= 1
            raise OSError(5, "Input/output error", os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(target, read)


def test_manifests_settings_and_pictures_are_read_again(records, waited, monkeypatch, tmp_path):
    failing(monkeypatch, "read_text", 1)
    assert record_schema.read_manifest(records)["kind"] == "images"
    (tmp_path / "omfa.json").write_text('{"a": 1}')
    failing(monkeypatch, "read_text", 1)
    assert read_json(tmp_path / "omfa.json") == {"a": 1}
    raw = next((records.parent / "raw").rglob("*.jpg"))
    (tmp_path / "a.png").write_bytes(raw.read_bytes())
    failing(monkeypatch, "read_bytes", 1)
    assert open_image(tmp_path / "a.png").width > 1
    assert len(waited) == 3
