"""A workdir that is not one folder, and records that differ, are found at the start and named."""

import json
import logging

import processes
import pytest
import tiny_viton as tiny

from omfa_jax.core import log_lines
from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock, is_locked
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, describe_training_records
from omfa_jax.parallel import distributed, shared_workdir
from omfa_jax.parallel.shared_workdir import describe_separate, look_for
from omfa_jax.train.monitoring.start_record import record_start

OWN_FOLDER = """
import os, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
from omfa_jax.cli.logs import set_up_logs
from omfa_jax.cli.main import report_error
from omfa_jax.parallel import distributed, shared_workdir
set_up_logs()
workdir = Path(sys.argv[1]) / os.environ["OWN"]
shared_workdir.LOOK_S = 1.0
workdir.mkdir()
try:
    distributed.initialize(workdir)
except Exception as error:
    sys.exit(report_error("train", error, joins=True))
"""


def test_a_folder_for_each_host_is_refused_by_all(tmp_path):
    running = processes.start(tmp_path, 1, 2, program=OWN_FOLDER, OWN_0="a", OWN_1="b")
    for status, _, err in processes.finish(running, timeout=100):
        assert status == 2, err
        assert f"{tmp_path}/a is not one folder: process 1 on " in err
        assert "does not see the file that process 0 on " in err


def test_the_line_names_those_apart_and_counts_the_rest():
    answers = {0: {"host": "a", "seen": True, "folder": "/w"}}
    answers |= {i: {"host": f"h{i}", "seen": False, "folder": "/w"} for i in range(1, 12)}
    answers[3]["seen"] = True
    line = describe_separate(answers)
    assert line.startswith("/w is not one folder: process 1 on h1, process 2 on h2, process 4 on")
    assert "process 9 on h9 and 2 more do not see the file that process 0 on a has written" in line
    assert describe_separate({0: answers[0], 3: answers[3]}) == ""


def test_a_file_that_is_there_is_seen(tmp_path):
    (tmp_path / "there").touch()
    assert look_for(tmp_path / "there", 0) and not look_for(tmp_path / "not", 0)


def test_a_difference_names_process_host_and_both_texts(monkeypatch):
    monkeypatch.setattr(shared_workdir, "find_hosts", lambda: ["a", "b", "c"])
    texts = ["9 records, digest x", "9 records, digest x", "8 records, digest y"]
    assert distributed.describe_difference("the data in /d:train", [2], texts) == (
        "the data in /d:train of process 2 on c (8 records, digest y) differs from process 0's"
        " (9 records, digest x)"
    )
    # a host that has not told its name
    assert "of process 7 and" not in distributed.describe_difference("it", [7], None)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tmp_path_factory.mktemp("raw")


def build(raw, name, people, change=None):
    source = tiny.write_raw(raw / f"{name}_raw", {"train": people})
    if change is not None:
        garment = source / "train" / "cloth" / f"{change:05d}_00.jpg"
        garment.write_bytes((source / "train" / "cloth" / "00000_00.jpg").read_bytes())
    build_records(source, raw / name)
    return str(raw / name)


def test_records_are_described_by_their_number_and_content(raw):
    slots = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}

    def describe(folder):
        return describe_training_records(PipelineSettings(folder, slots), "train")

    whole, same = build(raw, "whole", 4), build(raw, "same", 4)
    fewer, other = build(raw, "fewer", 3), build(raw, "other", 4, change=2)
    (text,) = describe(whole).values()
    assert text.startswith("4 records, digest ")
    assert [*describe(same).values()] == [text]
    assert describe(fewer)[fewer].startswith("3 records, digest ")
    assert describe(other)[other].startswith("4 records, digest ")
    assert describe(other)[other] != text
    # a mixture names each of its folders
    mixed = PipelineSettings(whole, slots, mixture=((whole, 0.5), (fewer, 0.5)))
    assert list(describe_training_records(mixed, "train")) == [whole, fewer]


def test_the_lock_outlives_its_file(tmp_path):
    place = tmp_path / LOCK_NAME
    with exclusive_lock(place):
        place.unlink()
        assert is_locked(tmp_path)
        with pytest.raises(OmfaError, match="another run is using"), exclusive_lock(place):
            pass
    assert not is_locked(tmp_path)
    with exclusive_lock(place):
        pass


def test_lines_carry_time_process_and_host_in_a_job_of_several(monkeypatch, capsys):
    record = logging.LogRecord("a", logging.INFO, "", 0, "step %d", (3,), None)
    formatter = log_lines.PlaceFormatter("%(message)s")
    monkeypatch.setattr(log_lines, "_place", "")
    monkeypatch.setattr(log_lines.socket, "gethostname", lambda: "host-b")
    log_lines.set_log_place(0, 1)
    assert formatter.format(record) == "step 3"
    log_lines.set_log_place(3, 8)
    monkeypatch.setattr(log_lines.time, "strftime", lambda form: "12-31 23:59:59")
    assert formatter.format(record) == "12-31 23:59:59 process 3 on host-b | step 3"


def test_each_start_leaves_a_line_of_code_versions_and_hosts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    record_start(tmp_path, "0.1 abc clean", ["a", "b", "b"])
    record_start(tmp_path, "0.1 abd clean", ["a"])
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert first["hosts"] == ["a", "b", "b"] and first["revision"] == "0.1 abc clean"
    assert {"jax", "jaxlib", "orbax-checkpoint"} <= set(first["versions"])
    assert sum(first["devices"].values()) > 0 and second["hosts"] == ["a"]
    assert "omfa_jax 0.1 abc clean; jax " in caplog.text and "3 processes on a, b" in caplog.text
    (tmp_path / "file").touch()
    record_start(tmp_path / "file" / "x", "r", ["a"])
    assert "training continues" in caplog.text
