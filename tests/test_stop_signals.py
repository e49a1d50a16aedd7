"""Signals: before the first step they end a run at once, then they save."""

import signal
import time

import pytest
from warm_process import WarmProcess

from omfa_jax.core import startup_signals
from omfa_jax.train.signals import SECOND_S, StopRequest, TrainingInterrupt

# hashing with one call, which as a compilation holds the main thread where no handler can run
BUSY = """
import hashlib, sys
from omfa_jax.core.startup_signals import watch_startup_signals
watch_startup_signals()
print("here", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_a_call_of_minutes_ends_the_start_at_once(tmp_path, number):
    program = BUSY.replace('"here"', f'open("{tmp_path}/here", "w").close()')
    running = WarmProcess(program, [])
    end = time.monotonic() + 20
    while not (tmp_path / "here").exists() and time.monotonic() < end:
        time.sleep(0.01)
    began = time.monotonic()
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 143 and time.monotonic() - began < 5
    (line,) = err.splitlines()
    assert line == (
        f"omfa train: {number.name} before the first step: nothing to save; run the same command"
        " to begin again"
    )


def test_after_the_start_signals_have_their_default_again(monkeypatch):
    before = signal.getsignal(signal.SIGHUP)
    startup_signals.watch_startup_signals()
    assert startup_signals.is_starting()
    startup_signals.end_startup()
    sent = []
    monkeypatch.setattr(startup_signals.os, "kill", lambda pid, number: sent.append(number))
    signal.raise_signal(signal.SIGHUP)
    assert sent == [signal.SIGHUP] and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    startup_signals.restore_signals()
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_each_stop_signal_asks_for_a_save_and_is_queued_again(number):
    with StopRequest() as stop:
        assert stop.get_signal(1) is None
        signal.raise_signal(number)
        assert stop.get_signal(1) == number
    told = TrainingInterrupt(number, 3)
    assert told.exit_status == 143
    assert str(told) == f"{number.name}: saved step 3; run the same command to resume"
    assert TrainingInterrupt(signal.SIGINT, 3).exit_status == 130


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.get_signal(1) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_a_later_interrupt_is_a_second_one():
    now = [0.0]
    with StopRequest(lambda: now[0]) as stop:
        signal.raise_signal(signal.SIGINT)
        # a launcher passes on what the terminal has sent to all
        now[0] += SECOND_S / 2
        signal.raise_signal(signal.SIGINT)
        assert stop.get_signal(1) == signal.SIGINT
        now[0] += SECOND_S
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
