"""Files of another schema, nested without end or of closed streams: one line each, no traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_viton as tiny

from omfa_jax.cli import main as cli
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.checks.check_records import check_records
from omfa_jax.data.records.record_schema import MANIFEST, open_records, read_manifest

NESTED = "[" * 100_000


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    build_records(tiny.write_raw(folder / "raw", {"train": 2, "test": 1}), folder / "records")
    return folder / "records"


@pytest.fixture
def records(built, tmp_path):
    return shutil.copytree(built, tmp_path / "records")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"splits": None}, "splits: expected the number of records by split, found None"),
        ({"splits": ["train"]}, "splits: expected"),
        ({"splits": {"train": "2"}}, "splits: expected"),
        ({"splits": {"train": -2}}, "splits: expected"),
        ({"splits": {"train": 1.5}}, "splits: expected"),
        ({"splits": {"train": True}}, "splits: expected"),
        ({"splits": {"../../x": 2}}, "splits: expected"),
        ({"builder": 3}, "builder: expected name/version, found 3"),
        ({"builder": "../../etc/1.0.0"}, "builder: expected name/version"),
        ({"builder": "/etc/1.0.0"}, "builder: expected name/version"),
        ({"report": "fine"}, "report: expected dict, found 'fine'"),
        ({"pose_style": 7}, "pose_style: expected str, found 7"),
        ({"kind": "latents"}, "latents: without vae_id"),
        ({"format": 99}, "expected records of format"),
        ({"kind": ["images"]}, "is damaged|expected records"),
    ],
    ids=str,
)
def test_a_manifest_of_another_schema_is_refused(records, changes, word):
    written = json.loads((records / MANIFEST).read_text())
    (records / MANIFEST).write_text(json.dumps(written | changes))
    with pytest.raises(OmfaError, match=word) as caught:
        read_manifest(records)
    assert "\n" not in str(caught.value) and "build again" in str(caught.value)


@pytest.mark.parametrize("name", ["splits", "builder", "kind", "format"])
def test_a_manifest_without_a_field_is_refused(records, name):
    written = json.loads((records / MANIFEST).read_text())
    del written[name]
    (records / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(OmfaError, match=name):
        open_records(records, "train")


@pytest.mark.parametrize("text", ["", "7", "null", "[]", NESTED, '{"a":' * 50_000, '"\\u0000"'])
def test_a_manifest_that_is_no_manifest_is_refused(records, text):
    (records / MANIFEST).write_text(text)
    with pytest.raises(OmfaError, match=r"is damaged .*build again"):
        read_manifest(records)


def test_a_wrong_count_is_refused_in_training_and_reported_by_check(records):
    written = json.loads((records / MANIFEST).read_text())
    written["splits"]["train"] = 10**18
    (records / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(OmfaError, match=f"{10**18} records of train, its shards 2; build again"):
        open_records(records, "train")
    assert len(open_records(records, "test")) == 1
    assert "expected 1000000000000000000 records" in str(check_records(records).faults)


def test_json_nested_without_end_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(NESTED)
    with pytest.raises(ValueError, match="NaN"):
        parse_json("NaN", parse_constant=lambda text: (_ for _ in ()).throw(ValueError(text)))


@pytest.mark.parametrize("command", ["run", "table"])
def test_a_study_nested_without_end_is_refused(tmp_path, capsys, command):
    (tmp_path / "study.json").write_text(NESTED)
    assert cli.main(["scaling", command, str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_closed_streams_are_opened_on_nothing():
    """A file that is opened would get their numbers, and whatever a library prints."""
    program = (
        "import os; from omfa_jax.cli.logs import open_closed_streams; open_closed_streams();"
        " file = os.open('/dev/null', os.O_RDONLY); print('said');"
        " raise SystemExit(10 + file)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], check=False, env=os.environ
    )
    assert done.returncode == 13
