"""Files that grow: what a kill or a full disk cuts short takes nothing of the next with it."""

import json
import logging
import os
import resource

import pytest

from omfa_jax.core.append_only import AppendOnlyFile, read_json_lines
from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.judge.answer_ledger import LedgerEntry, open_ledger
from omfa_jax.evals.report.svg_curves import read_loss_curve
from omfa_jax.studies.runs_table import read_runs_table
from omfa_jax.train.monitoring.writers import Writers


@pytest.fixture
def limit():
    """Let files grow to so many bytes: a write over it is cut short and then an OSError."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def read_rows(path):
    return [row for _, row in read_json_lines(path)]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2}', "\x00\x00", "[1]"])
def test_a_torn_last_row_does_not_swallow_the_next(tmp_path, torn, caplog):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n' + torn)
    writers = Writers(tmp_path, enabled=True)
    writers.write_scalars(3, {"loss": 0.25})
    writers.close()
    steps = [row["step"] for row in read_rows(log)]
    assert steps == ([1, 2, 3] if torn.endswith("2}") else [1, 3])
    if steps == [1, 3]:
        assert "metrics.jsonl: skipped 1 incomplete lines (line 2)" in caplog.text
    assert read_loss_curve(log) == {"loss": [(1, 0.5), (3, 0.25)]}


def test_a_piece_is_written_in_full_or_not_at_all(tmp_path, limit):
    file = AppendOnlyFile(tmp_path / "a", lines=True)
    file.append(b"one\n")
    limit(10)
    for _ in range(2):
        with pytest.raises(OSError, match="File too large"):
            file.append(b"two, which is too long\n")
        assert (tmp_path / "a").read_bytes() == b"one\n" and not file.is_torn
    limit(100)
    file.append(b"three\n")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"one\nthree\n"


def test_what_could_not_be_taken_back_is_ended(tmp_path, limit, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    file = AppendOnlyFile(tmp_path / "a", lines=True)
    with monkeypatch.context() as patch:
        patch.setattr("os.ftruncate", refuse)
        limit(3)
        with pytest.raises(OSError, match="too large"):
            file.append(b"one\n")
    assert file.is_torn
    limit(100)
    file.append(b"two\n")
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_a_paid_answer_is_not_taken_by_the_torn_one_before(tmp_path, limit, caplog):
    path = tmp_path / "c.jsonl"

    def entry(name):
        return LedgerEntry(name, "score", 1, 10, 5, 0.01, 3.0)

    with open_ledger(path) as ledger:
        ledger.add(entry("a"))
        limit(path.stat().st_size + 20)
        with pytest.raises(OmfaError, match="File too large"):
            ledger.add(entry("b"))
        limit(10_000)
        ledger.add(entry("c"))
    with path.open("ab") as file:
        file.write(b'{"key": "d')
    with open_ledger(path) as ledger, caplog.at_level(logging.WARNING):
        assert sorted(ledger.get_scores()) == ["a", "c"]
        ledger.add(entry("e"))
    with open_ledger(path) as ledger:
        assert sorted(ledger.get_scores()) == ["a", "c", "e"]
    assert "skipped 1 truncated lines" in caplog.text


def test_a_table_whose_last_line_was_cut_short_is_read_without_it(tmp_path, caplog):
    runs = [{"params": 10 * n, "samples": 100, "loss": 1.0, "flops": 1e9} for n in (1, 2)]
    path = tmp_path / "runs.jsonl"
    text = "".join(json.dumps(run) + "\n" for run in runs)
    path.write_text(text + '{"params": 30, "los')
    assert read_runs_table(path).runs.params.tolist() == [10, 20]
    assert "skipped its truncated last line (line 3)" in caplog.text
    # anywhere else it is no kill's work
    path.write_text('{"params": 30, "los\n' + text)
    with pytest.raises(OmfaError, match="line 1: expected one JSON object per line"):
        read_runs_table(path)


def test_files_are_made_as_others_are(tmp_path):
    AppendOnlyFile(tmp_path / "deep" / "a").append(b"x")
    (tmp_path / "b").touch()
    modes = [os.stat(tmp_path / name).st_mode for name in ("deep/a", "b")]
    assert modes[0] == modes[1]
