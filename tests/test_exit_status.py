"""The table of faults: how each ends a command, and which reads are tried again."""

import errno
import logging
import os
import pickle
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from omfa_jax.cli import main as command_line
from omfa_jax.core import retry
from omfa_jax.core.atomic_files import LOCK_NAME, atomic_write, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import FAULT_KINDS, NETWORK, classify_error, is_transient
from omfa_jax.core.retry import call_with_retries


def os_error(name):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "/mnt/a")


XLA = jax.errors.JaxRuntimeError
FAULTS = [
    *((os_error(name), 2, False) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "ENOENT")),
    *((os_error(name), 2, False) for name in ("EISDIR", "ENAMETOOLONG", "EMFILE", "ENOMEM")),
    *((os_error(name), 75, True) for name in ("EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET")),
    *((os_error(name), 75, True) for name in ("EAGAIN", "ENETDOWN", "ENOTCONN", "EHOSTUNREACH")),
    # a number that the table does not know
    (os_error("EUCLEAN"), 75, False),
    (TimeoutError(), 75, True),
    (ConnectionResetError(), 75, True),
    (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), 75, True),
    # an OSError of a library, without a number
    (OSError("image file is truncated"), 2, False),
    (MemoryError("Unable to allocate 10.0 GiB"), 2, False),
    (XLA("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 2, False),
    (XLA("INTERNAL: NCCL operation ncclAllReduce failed: unhandled system error"), 75, False),
    (XLA("UNAVAILABLE: connection to the coordination service is lost"), 75, False),
    (XLA("DEADLINE_EXCEEDED: Barrier timed out"), 75, False),
    (XLA("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error"), 75, False),
    (XLA("UNKNOWN: Gloo AllReduce failed: Connection closed by peer"), 75, False),
    # where the array of a failed collective is read
    (
        ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:1"),
        75,
        False,
    ),
    (ValueError("INTERNAL: NCCL operation ncclAllGather failed: remote error"), 75, False),
    (ValueError("unknown network 'Gloo'"), 1, False),
    (XLA("INVALID_ARGUMENT: the shapes do not fit"), 1, False),
    (RuntimeError("Unable to initialize backend 'cuda': INTERNAL: no device"), 75, False),
    # as TensorStore and Orbax say it
    (ValueError("DATA_LOSS: reading /a: [OS error 5: EIO Input/output error]"), 75, True),
    (ValueError("writing /a: [OS error 28: ENOSPC No space left on device]"), 2, False),
    (ValueError("/a: Stale file handle"), 75, True),
    # and as safetensors does
    (Exception("Error while serializing: I/O error: (os error 28)"), 2, False),
    # as an exception comes out of a worker process: its causes are lost, its text is not
    (OmfaError("record 5 cannot be read ([Errno 5] Input/output error); build again"), 75, True),
    (OmfaError("cannot write /a: No space left on device"), 2, False),
    (OmfaError("unknown task 'x'"), 2, False),
    (KeyError("x"), 1, False),
    (ZeroDivisionError(), 1, False),
    # whose text is not the system's
    (KeyError("File exists"), 1, False),
]


@pytest.mark.parametrize(("error", "status", "again"), FAULTS, ids=lambda f: repr(f)[:60])
def test_every_fault_has_its_status(error, status, again):
    assert (classify_error(error).status, is_transient(error)) == (status, again)
    # what workers send back
    copy = pickle.loads(pickle.dumps(error))
    assert classify_error(copy) == classify_error(error)


def test_every_row_of_the_table_is_met():
    assert {classify_error(error) for error, _, _ in FAULTS} == set(FAULT_KINDS)


def raised(outer, inner, **how):
    try:
        try:
            raise inner
        except Exception as error:
            if how.get("hidden"):
                raise outer from None
            if how.get("context"):
                raise outer  # noqa: B904
            raise outer from error
    except Exception as error:
        return error


def test_the_innermost_cause_counts():
    stale, mine = os_error("ESTALE"), OmfaError("the records cannot be read; build again")
    assert classify_error(raised(mine, stale)) == NETWORK
    assert classify_error(raised(OmfaError("m"), stale, hidden=True)) == NETWORK
    assert classify_error(raised(RuntimeError("worker failed"), stale)) == NETWORK
    assert classify_error(raised(OmfaError("m"), KeyError("k"))).status == 2
    # a bug in the handling of an error is a bug
    assert classify_error(raised(KeyError("k"), os_error("EIO"), context=True)).status == 1
    loop = OmfaError("m")
    loop.__context__ = loop
    assert classify_error(loop).status == 2
    url = OSError("urlopen")
    url.reason = os_error("ETIMEDOUT")  # type: ignore[attr-defined]
    assert classify_error(url) == NETWORK


def test_files_tell_what_they_met(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise os_error("EIO")

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(OmfaError) as told, atomic_write(tmp_path / "a"):
        pass
    assert is_transient(told.value)


def test_a_lock_held_by_another_run_is_not_worth_a_restart(tmp_path):
    for place in (tmp_path, tmp_path / LOCK_NAME):
        with exclusive_lock(place), pytest.raises(OmfaError) as refused, exclusive_lock(place):
            pass
        assert classify_error(refused.value).status == 2


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            os_error("EIO"),
            75,
            "omfa plan: [Errno 5] Input/output error: '/mnt/a' (the network or a",
        ),
        (os_error("ENOSPC"), 2, "omfa plan: [Errno 28] No space left on device: '/mnt/a'\n"),
        (os_error("EMFILE"), 2, "'/mnt/a' (too many open files: raise the limit (`ulimit -n`"),
        (OmfaError("give less"), 2, "omfa plan: give less\n"),
        (XLA("UNAVAILABLE: a\n\nb"), 75, "omfa plan: JaxRuntimeError: UNAVAILABLE: a b (a device"),
        (MemoryError(), 2, "omfa plan: MemoryError: MemoryError\n"),
        (KeyError("bug"), 1, "KeyError: 'bug'\n"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_command_ends_with_it(monkeypatch, capsys, error, status, line):
    def run(options):
        raise error

    module = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(command_line, "choose_module", lambda command, words: (module, words))
    assert command_line.main(["plan"]) == status
    said = capsys.readouterr().err
    assert line in said and ("Traceback" in said) == (status == 1 or isinstance(error, XLA))


def test_a_read_is_tried_again_and_that_is_said(monkeypatch, caplog):
    waited = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    left = [os_error("EIO"), os_error("ESTALE")]

    def read():
        if left:
            raise left.pop()
        return 7

    with caplog.at_level(logging.WARNING):
        assert call_with_retries("records of /a", read) == 7
    assert waited == list(retry.BACKOFF_S[:2]) and len(caplog.records) == 2
    assert "records of /a: [Errno 116] Stale file handle: '/mnt/a' (the network" in caplog.text
    tries = []

    def never():
        tries.append(1)
        raise os_error("EIO")

    with pytest.raises(OSError, match="Input/output"):
        call_with_retries("records", never)
    assert len(tries) == len(retry.BACKOFF_S) + 1

    def absent():
        tries.append(2)
        raise os_error("ENOENT")

    with pytest.raises(FileNotFoundError):
        call_with_retries("records", absent)
    assert tries.count(2) == 1


@pytest.mark.parametrize(
    ("words", "output", "status"),
    [
        (["scaling", "fit", "--table", "/absent.csv"], "2> /dev/full", 2),
        (["scaling", "fit", "--table", "/absent.csv"], "> /dev/full 2>&1", 2),
        (["plan", "--help"], "> /dev/null", 0),
    ],
)
def test_the_status_comes_out_where_nothing_can_be_printed(words, output, status):
    command = f"exec {sys.executable} -m omfa_jax.cli.main {' '.join(words)} {output}"
    here = Path(__file__).parents[1]
    done = subprocess.run(["sh", "-c", command], cwd=here, env={**os.environ, "PYTHONPATH": here})
    assert done.returncode == status


def test_a_command_whose_output_has_no_room_says_so(monkeypatch, capfd):
    module = types.SimpleNamespace(add_arguments=lambda parser: None, run=lambda _: print("x"))
    monkeypatch.setattr(command_line, "choose_module", lambda command, words: (module, words))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert command_line.main(["plan"]) == 2
    assert "omfa plan: [Errno 28] No space left on device" in capfd.readouterr().err
