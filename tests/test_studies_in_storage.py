"""Studies and reports in object storage have the bytes of those on a disk."""

import sys

import numpy as np
import pytest
from scaling_studies import plan
from scaling_tables import places, runs_of, write_csv
from some_scores import files_of, with_pictures

from omfa_jax.cli.main import main
from omfa_jax.core.images import read_rgb
from omfa_jax.core.remote_dirs import upload_folder
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.studies.run_results import read_result, write_result
from omfa_jax.studies.study_manifest import read_study
from omfa_jax.studies.study_runner import StudyRunner

# plays `omfa scaling run STUDY --only RUN`
PLAYED = """
import sys
from omfa_jax.core.paths import to_path
from omfa_jax.studies.run_results import write_result
from omfa_jax.studies.study_manifest import read_study
folder, name = to_path(sys.argv[1]), sys.argv[3]
print("trained", name)
write_result(folder, read_study(folder).get_run(name), {"loss": 0.25})
"""


def read_all(folder) -> dict[str, bytes]:
    """Return the files of a folder, with the folder's own name written as STUDY."""
    if isinstance(folder, RemotePath):
        found = {name: (folder / name).read_bytes() for name in folder.list_tree()}
    else:
        files = [file for file in folder.rglob("*") if file.is_file()]
        found = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return {name: text.replace(str(folder).encode(), b"STUDY") for name, text in found.items()}


def test_a_study_is_planned_and_tabled(store, tmp_path):
    here, there = tmp_path / "study", store / "study"
    for folder in (here, there):
        study = plan(folder, "--samples", "640,1280", sizes="tiny")
        for run in study.runs:
            write_result(folder, run, {"loss": 1 / run.samples})
        assert main(["scaling", "table", str(folder), "--out", str(folder / "runs.csv")]) == 0
    assert read_all(there) == read_all(here)


def fit(folder):
    table, out = str(folder / "runs.csv"), str(folder / "fit.json")
    assert main(["scaling", "fit", "--table", table, "--resamples", "100", "--out", out]) == 0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    write_csv(folder / "runs.csv", runs_of(*places("isoflop")))
    fit(folder)
    return folder


def test_a_table_is_fitted_and_plotted(store, fitted):
    (store / "runs.csv").upload(fitted / "runs.csv")
    fit(store)
    assert read_all(store) == read_all(fitted)
    found, picture = str(store / "fit.json"), store / "fit.png"
    assert main(["scaling", "plot", "--fit", found, "--out", str(picture)]) == 0
    assert read_rgb(picture).std() > 0


def test_a_study_runs_in_a_bucket(gs):
    plan(gs / "study", "--samples", "640", sizes="tiny")
    (run,) = read_study(gs / "study").runs
    command = [sys.executable, "-c", PLAYED]
    StudyRunner(gs / "study", read_study(gs / "study"), command).run(retry_failed=False)
    assert read_result(gs / "study", run).losses == {"loss": 0.25}
    assert (gs / "study" / run.workdir / "log.txt").read_text() == f"trained {run.name}\n"


def test_the_runs_of_a_study_on_s3_are_refused(s3_server, capsys):
    assert main(["scaling", "run", "s3://bucket/study"]) == 2
    assert "checkpoints cannot be on s3://" in capsys.readouterr().err


def test_a_report_is_written_to_a_bucket(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = [with_pictures(tmp_path, name, [0.1, 0.2], 50 * n) for n, name in enumerate("ab", 1)]
    here = files_of(tmp_path, *scores)
    upload_folder(tmp_path, store)
    outputs = []
    for folder, files in ((tmp_path, here), (store, [str(store / f"{n}.json") for n in (0, 1)])):
        page, table = folder / "page.html", folder / "table.csv"
        assert main(["eval", "report", *files, "--out", str(page), "--csv", str(table)]) == 0
        outputs.append([page.read_bytes(), table.read_bytes()])
    assert outputs[0] == outputs[1] and np.char.count(outputs[0][0].decode(), "data:image") > 0
