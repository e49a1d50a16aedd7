"""Apache Beam writes what this machine's processes write, and goes on where a run was killed."""

import sys
import time
from typing import Any

import numpy as np
import pytest
import tiny_viton as tiny
from test_restart import SETTINGS, SHARD, encode, files, interrupted

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.records_builder import ImageShardSource
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import beam_pipeline
from omfa_jax.data.records.shards import Shard, write_shard
from omfa_jax.data.records.staging import StagingFolder, open_staging_folder

# two processes; this runner needs no download, unlike Beam's default one
OPTIONS = "--runner=FnApiRunner --direct_num_workers=2 --direct_running_mode=multi_processing"

IN_PROCESS: dict[str, Any] = {"runner": "beam", "beam_options": "--runner=FnApiRunner"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = tiny.write_raw(tmp_path_factory.mktemp("raw") / "raw", {"train": 7, "test": 4})
    (raw / "train/image/00004_00.jpg").write_bytes(b"")
    return raw


def test_beam_options_are_for_beam(raw, tmp_path):
    with pytest.raises(OmfaError, match="--beam-options needs --runner beam"):
        build_records(raw, tmp_path / "out", beam_options="--runner=X")
    with pytest.raises(OmfaError, match="did you mean 'beam'"):
        build_records(raw, tmp_path / "out", runner="baem")


def test_without_beam_the_extra_is_named(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OmfaError, match=r"pip install -e '\.\[beam\]'"):
        build_records(raw, tmp_path / "out", runner="beam")


@pytest.mark.parametrize("mounted", [False, True])
def test_a_machine_without_the_raw_data_is_an_error_and_not_a_shard_of_skips(
    raw, tmp_path, mounted
):
    elsewhere = tmp_path / "raw"
    if mounted:
        elsewhere.mkdir()
    with open_staging_folder(tmp_path / "out", "viton_hd/1.0.0") as partial:
        source = ImageShardSource(VitonHD, partial, str(elsewhere))
        shard = Shard("viton_hd", "train", 0, 1, 0, 7)
        source.store_items(shard, VitonHD.list_items(str(raw), [])["train"])
        found = "an empty folder" if mounted else "No such file"
        with pytest.raises(OmfaError, match=f"raw data set on .*, found {found}.*--raw under"):
            write_shard(partial, source, shard)


def test_a_relative_raw_folder_is_stored_as_workers_elsewhere_find_it(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(raw.parent)
    stored = []
    monkeypatch.setattr(
        ImageShardSource, "store_items", lambda _, shard, items, *more: stored.extend(items)
    )
    with pytest.raises(Exception, match="items"):
        build_records(raw.name, tmp_path / "out")
    assert stored and all(item.person.is_absolute() for item in stored)


SPARK = """Job aborted: org.apache.spark.api.python.PythonException: Traceback:
  File "x.py", line 3, in process
omfa_jax.core.errors.OmfaError: /raw: expected the raw data set on host-3
\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:572)
\tat java.base/java.lang.Thread.run(Thread.java:840)
"""


def test_the_cause_is_found_among_the_tracebacks_of_an_engine():
    cause = beam_pipeline.find_cause(RuntimeError(SPARK))
    assert cause == "omfa_jax.core.errors.OmfaError: /raw: expected the raw data set on host-3"
    assert beam_pipeline.find_cause(RuntimeError("no  workers")) == "no workers"
    assert beam_pipeline.find_cause(TimeoutError()) == "TimeoutError"


def test_progress_is_said_and_so_is_that_there_is_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(beam_pipeline, "PROGRESS_S", 0.01)
    monkeypatch.setattr(beam_pipeline, "STALL_S", 0.05)
    caplog.set_level("INFO")
    partial = StagingFolder(tmp_path, "viton_hd/1.0.0")
    partial.progress.mkdir()
    partial.get_report_path("a").write_text("{}")
    with beam_pipeline.log_progress(partial, 3):
        wait_until(lambda: "does the runner have workers" in caplog.text)
    assert "1 of 3 shards are finished" in caplog.messages


def wait_until(met):
    end = time.monotonic() + 5
    while not met() and time.monotonic() < end:
        time.sleep(0.01)
    assert met()


@pytest.fixture(scope="module")
def _beam():
    pytest.importorskip("apache_beam", reason="needs the extra beam: pip install -e '.[beam]'")


@pytest.mark.usefixtures("_beam")
@pytest.mark.filterwarnings("ignore")
class TestBeam:
    def test_the_same_bytes_and_report(self, raw, tmp_path):
        local = build_records(raw, tmp_path / "local", shard_records=SHARD)
        beam = build_records(
            raw, tmp_path / "beam", shard_records=SHARD, runner="beam", beam_options=OPTIONS
        )
        assert beam == local and files(tmp_path / "beam") == files(tmp_path / "local")

    def test_goes_on_from_a_local_run(self, raw, tmp_path, monkeypatch):
        interrupted(raw, tmp_path / "beam", 2, monkeypatch)
        folder = tmp_path / ".beam.partial/records"
        before = {path.name: path.stat().st_ino for path in folder.rglob("*.array_record-*")}
        assert len(before) == 2
        build_records(raw, tmp_path / "beam", shard_records=SHARD, **IN_PROCESS)
        build_records(raw, tmp_path / "local", shard_records=SHARD)
        assert files(tmp_path / "beam") == files(tmp_path / "local")
        after = {path.name: path.stat().st_ino for path in (tmp_path / "beam").rglob("*-of-*")}
        assert all(after[name] == inode for name, inode in before.items())

    def test_latents(self, raw, tmp_path):
        build_records(raw, tmp_path / "records")
        write_latents(tmp_path / "records", tmp_path / "local", encode, **SETTINGS)
        write_latents(tmp_path / "records", tmp_path / "beam", encode, **SETTINGS, **IN_PROCESS)
        assert files(tmp_path / "beam") == files(tmp_path / "local")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("--direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
            ("--runner=Nope", "Unexpected pipeline runner: Nope"),
            ("--runner=no.such.Runner", "No module named 'no'"),
            ("--runner='X", "No closing quotation"),
        ],
    )
    def test_wrong_options_are_one_line(self, options, said):
        with pytest.raises(OmfaError, match=f"--beam-options: {said}") as caught:
            beam_pipeline.parse_beam_options(options)
        assert "\n" not in str(caught.value)

    def test_options_that_beam_does_not_know_are_said(self, caplog):
        beam_pipeline.parse_beam_options("--runner=FnApiRunner --nope=3 --direct_num_workers=2")
        (line,) = [text for text in caplog.messages if "nope" in text]
        assert line.startswith("--beam-options: Beam's Python package has no --nope=3;")

    def test_on_a_dask_cluster(self, raw, tmp_path):
        distributed = pytest.importorskip("distributed", reason="needs apache-beam[dask]")
        build_records(raw, tmp_path / "local", shard_records=SHARD)
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster:
            options = (
                "--runner=apache_beam.runners.dask.dask_runner.DaskRunner --dask_partition_size=1"
                f" --dask_client_address={cluster.scheduler_address}"
            )
            build_records(
                raw, tmp_path / "dask", shard_records=SHARD, runner="beam", beam_options=options
            )
        assert files(tmp_path / "dask") == files(tmp_path / "local")

    def test_what_a_worker_cannot_do_is_said(self, raw, tmp_path):
        build_records(raw, tmp_path / "records")

        def broken(pictures):
            return np.full((len(pictures), 8, 6, 4), np.nan)

        with pytest.raises(OmfaError, match="float16"):
            write_latents(tmp_path / "records", tmp_path / "beam", broken, **SETTINGS, **IN_PROCESS)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]
        assert "tensorflow" not in sys.modules
