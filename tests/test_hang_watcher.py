"""A process that hangs is named: in how long, and not when it is this one that was stopped."""

import processes
import pytest

from omfa_jax.parallel import hang_watcher, job_exit
from omfa_jax.parallel.activity import Beat
from omfa_jax.parallel.hang_watcher import Stillness, read_beats, report_hang


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def looks(clock, stillness, *values, step=2.0):
    """What is found at each look, `step` seconds apart; the values are dicts."""
    found = []
    for value in values:
        clock.now += step
        found.append(stillness.find_still(value, 6))
    return found


def test_what_does_not_change_is_still():
    clock = Clock()
    beats = [{1: "a", 2: f"{count}"} for count in range(5)]
    assert looks(clock, Stillness(5, clock), *beats) == [[], [], [], [1], [1]]


def test_a_change_counts_from_then_on():
    clock = Clock()
    beats = [{1: text} for text in "aabbbbb"]
    assert looks(clock, Stillness(5, clock), *beats) == [[], [], [], [], [], [1], [1]]


def test_a_process_that_was_stopped_itself_names_nobody():
    clock = Clock()
    stillness = Stillness(5, clock)
    assert looks(clock, stillness, {1: "a"}, {1: "a"}) == [[], []]
    clock.now += 100
    # the others had no chance to be seen meanwhile
    assert looks(clock, stillness, {1: "a"}, {1: "a"}, {1: "a"}, {1: "a"}) == [[], [], [], [1]]


def test_a_process_that_appears_late_is_not_still():
    clock = Clock()
    stillness = Stillness(5, clock)
    assert looks(clock, stillness, {}, {}, {}, {}, {3: "a"}, {3: "a"}) == [[]] * 6


def test_the_table_of_beats_and_the_line(monkeypatch):
    beats = {0: Beat(count=7, host="host-a"), 12: Beat(3, "host-b", 41, "data", 2.5, saved=40)}

    class Client:
        def key_value_dir_get(self, folder):
            return [(f"{folder}/{index}", beat.encode()) for index, beat in beats.items()]

        def key_value_try_get(self, key):
            return beats[int(key.rpartition("/")[2])].encode()

    assert read_beats(Client()) == beats and read_beats(Client(), 12) == {12: beats[12]}
    told = []
    monkeypatch.setattr(job_exit, "exit_because_of_hang", told.append)
    monkeypatch.setattr(hang_watcher.distributed.global_state, "coordinator_address", "host-a:1234")
    report_hang(12, beats[12], 60)
    report_hang(0, Beat(), 60)
    assert [(end.process, end.host, end.status) for end in told] == [
        (12, "host-b", 75),
        (0, "host-a", 75),
    ]
    assert told[0].line == (
        "it has not responded for 60 s: stopped, frozen or cut off (OMFA_HANG_TIMEOUT_S sets the"
        " time); last seen in the data of step 41; the last save was of step 40"
    )
    assert told[1].line.endswith("last seen in the start-up; nothing was saved yet")


# in its third step, as `kill -STOP` would
STOP = "os.kill(os.getpid(), 19)"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_named_by_the_other(tmp_path, victim):
    each = f"import jax\nif step == 3 and jax.process_index() == {victim}: {STOP}"
    running = processes.start(tmp_path, 5000, 2, EACH=each, OMFA_HANG_TIMEOUT_S="5")
    (ended,) = processes.finish([running[1 - victim]], timeout=200)
    running[victim].kill()
    status, _, err = ended
    assert status == 75
    assert f"omfa: exiting because of process {victim} on " in err
    assert "it has not responded for 5 s" in err.splitlines()[-1]


ENDS_EARLY = """
import os, sys, time
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
from omfa_jax.parallel import distributed
distributed.initialize(Path(sys.argv[1]))
if jax.process_index() == 0:
    time.sleep(14)
print("through", flush=True)
"""


def test_a_process_that_has_finished_before_the_others_does_not_hang(tmp_path):
    """As in an evaluation, which process 0 scores alone."""
    running = processes.start(tmp_path, 1, 2, program=ENDS_EARLY, OMFA_HANG_TIMEOUT_S="8")
    for status, out, err in processes.finish(running, timeout=200):
        assert (status, out) == (0, "through\n") and "omfa:" not in err, err
