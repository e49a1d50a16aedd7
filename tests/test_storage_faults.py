"""Whole writes, logs and locks through a proxy that does to requests what buckets do."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from storage_proxy import KINDS, Fault, start_proxy, use_store

from omfa_jax.core.append_only import AppendOnlyFile, read_json_lines
from omfa_jax.core.atomic_dirs import atomic_dir
from omfa_jax.core.atomic_files import atomic_write, exclusive_lock
from omfa_jax.core.exit_status import NO_RESTART, RESTART, classify_error
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.train.checkpoints.integrity import (
    DamagedCheckpointError,
    convert_error,
    find_os_error,
)


@pytest.fixture(autouse=True)
def _brief_waits(monkeypatch):
    """The client of gs:// waits a second and more before it repeats a request."""
    brief = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 100))
    monkeypatch.setattr("gcsfs.retry.asyncio", brief)


@pytest.mark.parametrize("kind", KINDS)
def test_single_faults_of_a_bucket_are_waited_out(kind, gs, gs_server):
    fault = Fault(kind, share=0.3, most=4, seconds=0.1)
    with start_proxy(gs_server, fault) as proxy, use_store(proxy.url):
        with exclusive_lock(gs):
            log = AppendOnlyFile(gs / "log", lines=True)
            for step in range(4):
                with atomic_write(gs / f"{step}.txt") as local:
                    local.write_text(str(step) * 1000)
                log.append(f'{{"step": {step}}}\n'.encode())
                log.flush()
            with atomic_dir(gs / "folder", ("mark", "a.bin")) as folder:
                (folder / "mark").touch()
                (folder / "a.bin").write_bytes(bytes(100_000))
            log.close()
        assert [row["step"] for _, row in read_json_lines(gs / "log")] == [0, 1, 2, 3]
        assert (gs / "3.txt").read_text() == "3" * 1000
        assert (gs / "folder" / "a.bin").read_bytes() == bytes(100_000)
    assert fault.injected


@pytest.mark.parametrize("kind", ["503 done", "lost reply"])
def test_a_lock_whose_grant_was_not_heard_is_ours(kind, gs, gs_server):
    fault = Fault(kind, share=1, most=1, only="ifGenerationMatch=0")
    start = time.monotonic()
    with start_proxy(gs_server, fault) as proxy, use_store(proxy.url), exclusive_lock(gs):
        assert fault.injected == 1 and time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("503", RESTART, "HTTP 503"),
        ("429", RESTART, "too many requests"),
        ("401", NO_RESTART, "the credentials are not valid"),
        ("reset", RESTART, "Connection reset by peer"),
    ],
)
def test_a_fault_that_stays_is_named(kind, status, said, gs, gs_server):
    fault = Fault(kind, share=1)
    with (
        start_proxy(gs_server, fault) as proxy,
        use_store(proxy.url),
        pytest.raises(OSError, match=said) as caught,
    ):
        (gs / "x").write_bytes(b"1")
    assert classify_error(caught.value).status == status
    assert fault.injected == 6


SENT = "[http_response_code='{}'] [http_response_body='...']"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(f"ABORTED: All 32 retry attempts failed: {SENT.format(503)}"), RESTART),
        (ValueError("ABORTED: All 32 retry attempts failed: CURL error: Recv failure"), RESTART),
        (ValueError(f"Error writing: PERMISSION_DENIED: {SENT.format(403)}"), NO_RESTART),
        # TensorStore asks for no new token, but the next process does
        (ValueError(f"PERMISSION_DENIED: Invalid Credentials {SENT.format(401)}"), RESTART),
        # gcsfs, of a part whose upload the store has forgotten
        (FileNotFoundError("http://h/upload/storage/v1/b/b/o?name=x&upload_id=1"), RESTART),
    ],
)
def test_errors_in_a_save_are_the_faults_that_they_are(error, status):
    found = find_os_error(error)
    assert found is not None and classify_error(found).status == status
    # a reader must not take them for damage
    assert not isinstance(convert_error(error, RemotePath("gs://b/run")), DamagedCheckpointError)


def test_what_is_wrong_with_a_file_is_no_fault_of_the_store():
    error = ValueError("DATA_LOSS: Error decoding manifest [source locations=...]")
    assert isinstance(convert_error(error, RemotePath("gs://b/run")), DamagedCheckpointError)
