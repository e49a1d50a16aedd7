"""Apache Beam writes what this machine's processes write, and goes on where a run was killed."""

import sys
from typing import Any

import numpy as np
import pytest
import tiny_viton as tiny
from test_restart import SETTINGS, SHARD, encode, files, interrupted

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.latent_writer import write_latents

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

    def test_what_a_worker_cannot_do_is_said(self, raw, tmp_path):
        build_records(raw, tmp_path / "records")

        def broken(pictures):
            return np.full((len(pictures), 8, 6, 4), np.nan)

        with pytest.raises(OmfaError, match="float16"):
            write_latents(tmp_path / "records", tmp_path / "beam", broken, **SETTINGS, **IN_PROCESS)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]
        assert "tensorflow" not in sys.modules
