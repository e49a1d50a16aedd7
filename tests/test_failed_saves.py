"""A save that failed ends the run, or all processes of it, at once and with the table's status."""

import asyncio
import subprocess
import threading

import processes
import pytest
from orbax.checkpoint._src.futures.future import CommitFuture

from omfa_jax.train.checkpoints.save_threads import join_save_threads

# what a full disk answers, to this process alone
FULL = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    " resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_that_cannot_write_ends_all(tmp_path, victim):
    """Orbax's other processes would wait 20 minutes for its part."""
    settings = {"SAVE": "2", "PAUSE": "0.2", f"BEFORE_{victim}": FULL}
    ended = processes.finish(processes.start(tmp_path, 40, 2, **settings), timeout=240)
    assert [status for status, _, _ in ended] == [2, 2], ended
    assert "could not save checkpoint 2" in ended[victim][2]
    assert f"omfa: exiting because of process {victim} on " in ended[1 - victim][2]


def test_a_folder_that_takes_no_checkpoint_ends_the_run(tmp_path):
    """Orbax makes a checkpoint's folder in threads that outlive their failure, and the process."""
    (done,) = processes.finish(processes.start(tmp_path, 2, 1, SAVE="2"))
    assert done[0] == 0, done[2]
    folder = tmp_path / "checkpoints"
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        made = subprocess.run(["mount", *options, folder, folder], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    try:
        (ended,) = processes.finish(processes.start(tmp_path, 6, 1, SAVE="2"), timeout=120)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert ended[0] == 2, ended
    assert f"{folder}" in ended[2].splitlines()[-1] and "Read-only" in ended[2].splitlines()[-1]


def test_the_other_writers_of_a_save_have_ended():
    """They would print tracebacks over the error's line while Python ends."""
    done = []

    async def write():
        await asyncio.sleep(0.3)
        done.append(threading.current_thread().name)

    CommitFuture(write(), name="writer")
    join_save_threads()
    assert done == ["writer"]
    CommitFuture(asyncio.sleep(1), name="stuck")
    join_save_threads(0.1)
    assert "stuck" in {thread.name for thread in threading.enumerate()}
    join_save_threads()
