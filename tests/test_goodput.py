"""The run's clock, on clocks that only the test moves."""

import errno

import pytest

from omfa_jax.train.monitoring.goodput import Clock, read_start_time


class Time:
    """A perf_counter and a wall clock that stand still until they are moved."""

    def __init__(self):
        self.value = 100.0

    def __call__(self):
        return self.value

    def pass_(self, seconds):
        self.value += seconds


def step(clock, time, seconds, data=0.0):
    with clock.measure("data"):
        time.pass_(data)
    time.pass_(seconds)
    clock.record_step()


@pytest.fixture
def time():
    return Time()


def clock_of(time, began=100.0):
    return Clock(began, now=time, wall=time)


def test_percentiles_leave_out_saves_but_not_waiting_for_data(time):
    clock = clock_of(time)
    step(clock, time, 50.0)  # compiles: only its end counts
    for seconds in (1.0, 1.0, 2.0):
        step(clock, time, seconds, data=0.5)
        with clock.measure("save"):
            time.pass_(30.0)
    figures = clock.compute_metrics(4)
    assert figures["step_seconds/p50"] == pytest.approx(1.5)
    assert figures["step_seconds/max"] == pytest.approx(2.5)
    assert figures["seconds/save"] == pytest.approx(90.0)
    assert figures["data_wait"] == pytest.approx(1.5 / 145.5)
    # 4 steps of 1.5 s of the 145.5 s that have passed
    assert figures["goodput"] == pytest.approx(4 * 1.5 / 145.5)


def test_windows_begin_anew_and_totals_go_on(time):
    clock = clock_of(time)
    step(clock, time, 1.0)
    step(clock, time, 1.0, data=1.0)
    with clock.measure("pictures"):
        time.pass_(5.0)
    clock.compute_metrics(2)
    step(clock, time, 3.0)
    with clock.measure("pictures"):
        time.pass_(5.0)
    figures = clock.compute_metrics(3)
    assert figures["step_seconds/p50"] == pytest.approx(3.0)
    assert figures["data_wait"] == 0.0
    assert figures["seconds/pictures"] == pytest.approx(10.0)


def test_goodput_counts_what_a_restart_lost(time):
    # the run began 900 s before this process; 10 steps of 1 s are all that is left of it
    clock = clock_of(time, began=time() - 900.0)
    step(clock, time, 50.0)
    for _ in range(9):
        step(clock, time, 1.0)
    assert clock.compute_metrics(10)["goodput"] == pytest.approx(10.0 / 959.0)


def test_no_step_no_percentiles(time):
    assert "step_seconds/p50" not in clock_of(time).compute_metrics(0)


def warned(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_clock_that_was_set_back_since_the_run_began_tells_no_goodput(time, caplog):
    clock = clock_of(time, began=time() + 3600.0)
    for _ in range(3):
        step(clock, time, 1.0)
    figures = clock.compute_metrics(3)
    assert "goodput" not in figures and figures["step_seconds/p50"] == 1.0
    step(clock, time, 1.0)
    assert "goodput" not in clock.compute_metrics(4)
    assert len(warned(caplog)) == 1 and "no goodput" in warned(caplog)[0]


def test_hosts_whose_clocks_differ_a_little_tell_goodput(time, caplog):
    clock = clock_of(time, began=time() + 0.5)
    for _ in range(4):
        step(clock, time, 1.0)
    assert clock.compute_metrics(4)["goodput"] == pytest.approx(1.0) and not caplog.records


def test_a_mark_that_cannot_be_read_now_is_left_alone(tmp_path, monkeypatch, caplog):
    read_start_time(tmp_path)
    written = (tmp_path / "began").read_bytes()
    stale = OSError(errno.ESTALE, "Stale file handle")

    def refuse(*_, **__):
        raise stale

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.read_text", refuse)
        read_start_time(tmp_path)
    assert "Stale file handle" in caplog.text
    assert (tmp_path / "began").read_bytes() == written


def test_steps_that_the_time_has_no_room_for_tell_no_goodput(time, caplog):
    # 1000 steps of 1 s in a run that began 10 s ago, by a clock that was set back meanwhile
    clock = clock_of(time, began=time() - 10.0)
    for _ in range(3):
        step(clock, time, 1.0)
    assert "goodput" not in clock.compute_metrics(1000) and len(warned(caplog)) == 1


def test_a_clock_that_is_set_while_the_run_goes_on_changes_nothing(time):
    wall = Time()
    clock = Clock(wall() - 91.0, now=time, wall=wall)
    for change in (-3600.0, 0.0, 7200.0):
        wall.pass_(change)
        for _ in range(3):
            step(clock, time, 1.0)
        figures = clock.compute_metrics(9)
    assert figures["goodput"] == pytest.approx(9 / 100)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-5", "1e999", "\xff"])
def test_a_mark_that_says_no_time_is_written_again(text, tmp_path):
    (tmp_path / "began").write_bytes(text.encode("latin1"))
    now = read_start_time(tmp_path)
    assert 1.7e9 < now < 1e12 and read_start_time(tmp_path) == now
