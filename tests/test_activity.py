"""What processes say of themselves: which one stalls, which one is slow, what the log shows."""

import re

import processes
import pytest

from omfa_jax.parallel.activity import (
    Activity,
    Beat,
    PaceTable,
    describe_main_thread,
    find_stalled,
    format_paces,
    is_all_waiting,
)


def beat(step, stage, stage_s, steps=5):
    return Beat(host="h", step=step, stage=stage, stage_s=stage_s, steps=steps)


@pytest.mark.parametrize(
    ("beats", "stalled"),
    [
        # the others are in the step whose data one waits for
        ([beat(8, "step", 61), beat(8, "data", 61)], 1),
        ([beat(8, "data", 61), beat(8, "step", 59), beat(8, "step", 59)], 0),
        ([beat(8, "step", 59), beat(8, "data", 59)], None),
        # a long step is no stall, and neither are a save, pictures or an evaluation
        ([beat(8, "step", 999), beat(8, "step", 999)], None),
        ([beat(8, "save", 999), beat(9, "data", 61)], None),
        ([beat(8, "pictures", 999), beat(9, "data", 61)], None),
        # nobody waits for one of those who all wait for the storage
        ([beat(8, "data", 999), beat(8, "data", 998)], None),
        ([beat(8, "data", 70), beat(8, "data", 80), beat(8, "step", 60)], 1),
        # the first batch of a process may take five times as long
        ([beat(1, "step", 99, 0), beat(1, "data", 299, 0)], None),
        ([beat(1, "step", 99, 0), beat(1, "data", 301, 0)], 1),
        ([beat(0, "start", 999, 0), beat(0, "start", 999, 0)], None),
        ([], None),
    ],
)
def test_the_one_that_the_others_wait_for(beats, stalled):
    assert find_stalled(dict(enumerate(beats)), 60) == stalled


def test_all_that_wait_are_noticed():
    assert is_all_waiting({0: beat(8, "data", 61), 1: beat(8, "data", 60)}, 60)
    assert not is_all_waiting({0: beat(8, "data", 61), 1: beat(8, "step", 61)}, 60)
    assert not is_all_waiting({}, 60)


def test_a_beat_carries_stage_step_and_age():
    now = [10.0]
    activity = Activity(lambda: now[0])
    assert activity.make_beat(0, "h").place == "start-up"
    activity.enter("data", 7)
    now[0] += 3
    activity.finish_step(1.5, 0.5)
    activity.note_save(6)
    made = activity.make_beat(4, "h")
    assert made == Beat(4, "h", 7, "data", 3.0, 1, 1.5, 0.5, 6)
    assert Beat.decode(made.encode()) == made and made.place == "data of step 7"


def paced(steps, data_s, own_s=0.0, host="h"):
    return Beat(host=host, steps=steps, data_s=data_s, own_s=own_s)


def test_a_process_that_waits_a_second_a_batch_is_named_once():
    table = PaceTable()
    first = {0: paced(10, 0.02), 1: paced(10, 0.1, host="host-b"), 2: paced(9, 0.03)}
    assert table.describe_slowest(table.compare(first), first, 0.5) is None
    then = {0: paced(20, 0.04), 1: paced(19, 9.1, 0.9, "host-b"), 2: paced(19, 0.05)}
    paces = table.compare(then)
    assert paces[1] == pytest.approx((1.0, 0.1)) and paces[0] == pytest.approx((0.002, 0.0))
    assert table.describe_slowest(paces, then, 1.1) == (
        "process 1 on host-b holds up the others: of each step it waits 1.00 s for its data and"
        " spends 0.10 s on its host; the others' median is 0.00 s"
    )
    assert table.describe_slowest(paces, then, 1.1) is None
    # no step since: nothing to compare
    assert table.compare(then) == {} and table.describe_slowest({}, then, 1.1) is None
    # a fifth of a long step is not worth a line
    assert PaceTable().describe_slowest({0: (0.1, 0.0), 1: (1.0, 0.0)}, then, 10.0) is None


def test_the_log_has_each_of_few_processes_and_the_extremes_of_many():
    assert format_paces({0: (0.5, 0.1), 1: (0.0, 0.2)}) == {
        "data_seconds/process_0": 0.5,
        "data_seconds/process_1": 0.0,
        "host_seconds/process_0": 0.1,
        "host_seconds/process_1": 0.2,
    }
    many = {index: (float(index == 7), 0.25) for index in range(40)}
    row = format_paces(many)
    assert row["data_seconds/max_process"] == 7 and row["data_seconds/median"] == 0.0
    assert row["host_seconds/max"] == 0.25 and len(row) == 6


def test_the_main_thread_is_where_it_is():
    told = describe_main_thread()
    assert "test_the_main_thread_is_where_it_is (test_activity.py:" in told and " < " in told


# of process 1, from the third step on, and for good in the eighth
SLOW = """
import time, jax
if step > 2 and jax.process_index() == 1:
    time.sleep(1000 if step == 8 else 0.5)
"""


def test_a_process_without_data_is_named_as_slow_and_then_ends_the_job(tmp_path):
    program = processes.TRAINING.replace(
        "set_up_logs()\n",
        "set_up_logs()\nfrom omfa_jax.parallel import hang_watcher\nhang_watcher.BEAT_S = 0.3\n",
        1,
    )
    running = processes.start(tmp_path, 100, 2, program=program, EACH=SLOW, OMFA_HANG_TIMEOUT_S="4")
    (zero, _, said), (one, _, own) = processes.finish(running, timeout=100)
    assert (zero, one) == (75, 75), said
    assert re.search(
        r"process 1 on \S+ holds up the others: of each step it waits \d\.\d\d s", said
    )
    last = said.splitlines()[-1]
    assert re.search(r"omfa: exiting because of process 1 on \S+: it has waited \d+ s for", last)
    assert "for the data of step 8, and the others for it" in last
    assert re.search(r"omfa: exiting: it has waited .* it is in <module>", own.splitlines()[-1])
