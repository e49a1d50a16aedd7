"""Writes that fail or do not come back: the run goes on, which is said once, and once its end."""

import logging
import threading

import numpy as np
import pytest
from event_files import read_events

from omfa_jax.core.images import read_rgb as decode_rgb
from omfa_jax.train.monitoring import background_writer
from omfa_jax.train.monitoring.background_writer import BackgroundWriter
from omfa_jax.train.monitoring.profiler import Profiler, ProfileSteps
from omfa_jax.train.monitoring.writers import Writers


class Disk:
    """Takes what is written while there is room."""

    def __init__(self):
        self.full, self.held = False, []
        self.freed = threading.Event()

    def writing(self, thing):
        def write():
            if self.full:
                raise OSError(28, "No space left on device", "/full")
            self.held.append(thing)
            if thing == "last":
                self.freed.set()

        return write


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Wait as long as a busy machine takes; the test of one that hangs has less."""
    monkeypatch.setattr(background_writer, "PATIENCE_S", 60.0)


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_one_line_when_it_fails_and_one_when_there_is_room_again(caplog):
    disk, rows = Disk(), BackgroundWriter("rows", retry_s=0.02)
    rows.put(disk.writing(0))
    disk.full = True
    for thing in range(1, 50):
        rows.put(disk.writing(thing))
    assert disk.held == [0] and len(said(caplog)) == 1
    assert "rows: cannot be written ([Errno 28] No space left on device: '/full')" in caplog.text
    disk.full = False
    rows.put(disk.writing("last"))
    assert disk.freed.wait(30)
    rows.close()
    assert disk.held == [*range(50), "last"]
    assert said(caplog)[1:] == ["rows: writing works again; none was lost"]


def test_the_oldest_are_lost_when_too_many_wait_and_that_is_counted(caplog):
    disk, rows = Disk(), BackgroundWriter("rows", kept=3, retry_s=0.02)
    disk.full = True
    for thing in (*range(10), "last"):
        rows.put(disk.writing(thing))
    disk.full = False
    assert disk.freed.wait(30)
    rows.close()
    assert len(disk.held) == 3 and disk.held[1:] == [9, "last"]
    assert said(caplog)[-1] == "rows: writing works again; 8 were lost"


def test_a_disk_that_stays_full_does_not_hold_up_the_end(caplog):
    disk, rows = Disk(), BackgroundWriter("rows", retry_s=1000.0)
    disk.full = True
    for thing in range(4):
        rows.put(disk.writing(thing))
    rows.close()
    assert said(caplog)[1:] == ["rows: 4 were not written"]


def test_a_write_that_does_not_come_back_holds_up_nothing(caplog, monkeypatch):
    monkeypatch.setattr(background_writer, "PATIENCE_S", 0.05)
    server, disk, rows = threading.Event(), Disk(), BackgroundWriter("rows")
    rows.put(server.wait)
    for thing in (*range(20), "last"):
        rows.put(disk.writing(thing))
    assert not disk.held and len(said(caplog)) == 1 and "has not finished" in said(caplog)[0]
    rows.close(0.01)
    assert said(caplog)[1:] == ["rows: 22 were not written"]
    server.set()
    assert disk.freed.wait(30)
    rows.close()


def test_what_another_try_would_not_mend_is_left_out(caplog):
    disk, rows = Disk(), BackgroundWriter("rows")
    rows.put(lambda: 1 / 0)
    rows.put(disk.writing("last"))
    rows.close()
    assert disk.held == ["last"] and said(caplog) == [
        "rows: skipped one: ZeroDivisionError: division by zero"
    ]


@pytest.fixture
def no_room(monkeypatch):
    """Files can be made, and take nothing."""

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", refuse)
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    return monkeypatch


def test_rows_curves_and_pictures_on_a_full_disk(no_room, tmp_path, caplog):
    writers = Writers(tmp_path, enabled=True)
    for step in range(1, 40):
        writers.write_scalars(step, {"loss": 0.5})
        writers.write_image(step, "sheet", np.zeros((2, 3, 3), np.uint8))
    failed = said(caplog)
    assert len(failed) == 3 and all("No space left" in line for line in failed)
    no_room.undo()
    writers.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 39
    assert len(list((tmp_path / "samples").glob("*.png"))) == 16
    again = said(caplog)[3:]
    assert sum("none was lost" in line for line in again) == 2 and "23 were lost" in again[-1]


def test_event_files_hold_curves_and_pictures(tmp_path):
    for step in (1, 2):
        writers = Writers(tmp_path, enabled=True)
        writers.write_scalars(step, {"loss": 0.5 * step, "gone": float("nan")})
        writers.write_image(step, "sheet", np.full((2, 3, 3), 7, np.uint8))
        writers.close()
    events = list(read_events(tmp_path / "tensorboard"))
    assert {e.file_version for e in events if not e.summary.value} == {"brain.Event:2"}
    values = [(e.step, value) for e in events for value in e.summary.value]
    curve = [(at, v.tag, v.simple_value) for at, v in values if v.tag == "loss"]
    assert curve == [(1, "loss", 0.5), (2, "loss", 1.0)]
    shown = [v.image for _, v in values if v.tag == "samples/sheet"]
    assert [(image.height, image.width) for image in shown] == [(2, 3)] * 2
    assert decode_rgb(shown[0].encoded_image_string).tolist() == [[[7] * 3] * 3] * 2


def test_a_trace_that_cannot_be_written_is_none(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise RuntimeError("INTERNAL: No space left on device")

    monkeypatch.setattr("jax.profiler.start_trace", refuse)
    profiler = Profiler(ProfileSteps(1, 2), tmp_path)
    for step in (1, 2, 3):
        profiler.before_step(step)
        profiler.after_step(step, 0)
    profiler.close()
    assert len(said(caplog)) == 1 and "training continues" in said(caplog)[0]
