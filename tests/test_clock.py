"""The run's clock, on clocks that only the test moves."""

import pytest

from omfa_jax.train.clock import Clock


class Time:
    """A perf_counter and a wall clock that stand still until they are moved."""

    def __init__(self):
        self.value = 100.0

    def __call__(self):
        return self.value

    def pass_(self, seconds):
        self.value += seconds


def step(clock, time, seconds, data=0.0):
    with clock.spent("data"):
        time.pass_(data)
    time.pass_(seconds)
    clock.step_finished()


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
        with clock.spent("save"):
            time.pass_(30.0)
    figures = clock.window(4)
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
    with clock.spent("pictures"):
        time.pass_(5.0)
    clock.window(2)
    step(clock, time, 3.0)
    with clock.spent("pictures"):
        time.pass_(5.0)
    figures = clock.window(3)
    assert figures["step_seconds/p50"] == pytest.approx(3.0)
    assert figures["data_wait"] == 0.0
    assert figures["seconds/pictures"] == pytest.approx(10.0)


def test_goodput_counts_what_a_restart_lost(time):
    # the run began 900 s before this process; 10 steps of 1 s are all that is left of it
    clock = clock_of(time, began=time() - 900.0)
    step(clock, time, 50.0)
    for _ in range(9):
        step(clock, time, 1.0)
    assert clock.window(10)["goodput"] == pytest.approx(10.0 / 959.0)


def test_no_step_no_percentiles(time):
    assert "step_seconds/p50" not in clock_of(time).window(0)
