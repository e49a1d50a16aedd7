"""A failure on one of two hosts exits both with one status and a line that names the host."""

import processes
import pytest

FULL = "OSError(28, 'No space left on device', '/mnt/records')"
STALE = "OSError(116, 'Stale file handle', '/mnt/records')"
LINES = {
    FULL: "[Errno 28] No space left on device: '/mnt/records'",
    STALE: "[Errno 116] Stale file handle: '/mnt/records'",
    "KeyError('bug')": "KeyError: 'bug'",
}


# XLA's own timeouts are 100 s for a lost host and 300 s at shutdown
@pytest.mark.parametrize(
    ("when", "victim", "fault", "status"),
    [
        ("FAULT", 1, FULL, 2),
        ("FAULT", 1, STALE, 75),
        ("FAULT", 0, "KeyError('bug')", 1),
        ("EARLY", 1, FULL, 2),
        ("EARLY", 0, FULL, 2),
    ],
)
def test_a_fault_on_one_ends_both_with_its_status(tmp_path, when, victim, fault, status):
    running = processes.start(tmp_path, 6, 2, **{f"{when}_{victim}": fault})
    ended = processes.finish(running, timeout=240)
    assert [status for status, _, _ in ended] == [status] * 2, ended
    errors = [err for _, _, err in ended]
    assert LINES[fault] in errors[victim]
    assert f"omfa: exiting because of process {victim} on " in errors[1 - victim]
    assert LINES[fault] in errors[1 - victim].splitlines()[-1]
