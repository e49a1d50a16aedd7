"""What the suite says of itself: its lists of slow files and of guarded lines fit the tree."""

import subprocess
import sys
from pathlib import Path

import slow_tests

TESTS = Path(__file__).parent


def test_slow_files_and_helpers_exist():
    names = {path.stem for path in TESTS.glob("*.py")}
    assert {*slow_tests.FILES, *slow_tests.HELPERS} <= names


def test_what_starts_a_process_is_slow():
    assert slow_tests.is_slow(Path(__file__), test_guarded_lines_are_found)
    assert not slow_tests.is_slow(Path(__file__), test_slow_files_and_helpers_exist)


def test_guarded_lines_are_found():
    """`bench/mutations.py` breaks these lines; a row whose line has changed must follow it."""
    command = [sys.executable, str(TESTS.parent / "bench/mutations.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
