"""Long compilations are announced, stay out of the time left, and show no box of XLA."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
from matrix_training import matrix_run

from omfa_jax.core import compile_notice, stderr_filter
from omfa_jax.core.compile_notice import CompilationNotice, hide_slow_compile_box
from omfa_jax.core.stderr_filter import BoxFilter
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring.writers import Progress

STARS = "*" * 32
ALARM = "E1130 12:00:00.000000     123 slow_operation_alarm.cc:73] "
ASKED = "[Compiling module jit_step for CPU] Very slow compile? If you want to file a bug, run with"
BOX = f"{ALARM}\n{STARS}\n{ASKED} envvar XLA_FLAGS=--xla_dump_to=/tmp/foo\n{STARS}\n"
TOOK = f"{ALARM}The operation took 3m2s\n\n{STARS}\n{ASKED}\n{STARS}\n"
# another message of the same source, and another error of XLA
FOLDING = (
    f"{ALARM}Constant folding an instruction is taking > 1s:\n\n  %reduce = f32[] reduce()\n\n"
)
ERROR = "E1130 12:00:00.000000     123 rendezvous.cc:50] participants are stuck\n"


def filtered(*pieces):
    out = []
    box = BoxFilter(out.append)
    for piece in pieces:
        box.feed(piece.encode())
    box.flush()
    return b"".join(out).decode()


def test_only_the_box_is_left_out():
    assert filtered(ERROR + BOX + "step 1\n" + TOOK + ERROR) == ERROR + "step 1\n" + ERROR
    assert filtered(FOLDING + ERROR + BOX, "a bar\r 10%") == FOLDING + ERROR + "a bar\r 10%"
    # in pieces, as a pipe may deliver it, and cut short by the end of the process
    assert filtered(*BOX) == ""
    assert filtered(BOX[:80]) == BOX[:80]
    assert filtered(FOLDING + "x\n" * 20) == FOLDING + "x\n" * 20


def test_stderr_passes_through_the_filter_and_is_given_back(capfd):
    # before the filter is there, which may be at once
    before = os.fstat(2).st_ino
    with hide_slow_compile_box(after_s=0):
        deadline = time.monotonic() + 20
        while os.fstat(2).st_ino == before and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(2, (BOX + ERROR).encode())
        os.write(2, b"no end of line")
    assert os.fstat(2).st_ino == before
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == ERROR + "no end of line\nafter\n"


def test_compilations_that_overlap_give_stderr_back(capfd):
    before = os.fstat(2).st_ino
    first, second = (hide_slow_compile_box(after_s=0) for _ in range(2))
    deadline = time.monotonic() + 20
    with second:
        with first:
            while len(compile_notice._SWAP._long) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(2, b"both\n")
        # the second's box is still left out
        assert os.fstat(2).st_ino != before
        os.write(2, (BOX + ERROR).encode())
    assert os.fstat(2).st_ino == before
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "both\n" + ERROR + "after\n"


def test_the_filter_outlives_signals_to_the_whole_job():
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", stderr_filter.__file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=writing)
    assert process.stdin is not None
    os.close(writing)
    process.stdin.write(b"started\n")
    process.stdin.flush()
    assert os.read(reading, 100) == b"started\n"
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        process.send_signal(getattr(signal, name))
    process.stdin.write(b"saved a checkpoint\n")
    process.stdin.close()
    assert process.wait(20) == 0
    assert os.read(reading, 100) == b"saved a checkpoint\n"
    os.close(reading)


def test_a_log_that_cannot_be_written_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    # its reader has gone
    stderr_filter.write_all(b"x", writing)
    os.close(writing)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sent = bytes(range(256)) * 1024
    thread = threading.Thread(target=stderr_filter.write_all, args=(sent, writing))
    thread.start()
    came = b""
    while len(came) < len(sent):
        came += os.read(reading, 65536)
    thread.join(20)
    os.close(reading)
    os.close(writing)
    assert came == sent


def test_a_short_compilation_leaves_stderr_alone():
    before = os.fstat(2).st_ino
    with hide_slow_compile_box():
        assert os.fstat(2).st_ino == before
    assert os.fstat(2).st_ino == before


def test_a_notice_is_given_once_for_each_program(caplog):
    notice = CompilationNotice("the sampler")
    with caplog.at_level(logging.INFO):
        for key in ((1, "a"), (1, "a"), (2, "a")):
            with notice(*key):
                pass
    assert caplog.messages == ["compiling the sampler; minutes for a large model"] * 2


def test_training_announces_the_step_and_compiles_it_once(tmp_path, caplog, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        compile_notice, "hide_slow_compile_box", lambda: contextlib.nullcontext(compiled.append(1))
    )
    programs = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **of: programs.append((event.rsplit("/")[-1], of.get("fun_name")))
    )
    try:
        with caplog.at_level(logging.INFO):
            train(matrix_run(tmp_path, 2))
    finally:
        jax.monitoring.clear_event_listeners()
    assert caplog.messages.count("compiling the step; minutes for a large model") == 1
    assert len(compiled) == 1
    assert programs.count(("backend_compile_duration", "jit(step)")) == 1


def test_the_time_left_leaves_out_what_was_paused_for(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress = Progress(0, 10, batch_size=4, enabled=True)
    now[0] += 600
    progress.pause()
    now[0] += 2
    progress.advance()
    with caplog.at_level(logging.INFO):
        rate = progress.report(1, 0.5)
    progress.close()
    np.testing.assert_allclose(rate, 2.0)
    assert caplog.messages == ["step 1 of 10: loss 0.5000, 2.0 examples/s, 0:00:18 left"]
