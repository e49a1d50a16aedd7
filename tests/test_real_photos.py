"""Real VITON-HD photos become records; they are not in the project, OMFA_SAMPLES names them."""

import os
from pathlib import Path

import pytest

from omfa_jax.data.build import build
from omfa_jax.data.schema import open_records


@pytest.mark.skipif("OMFA_SAMPLES" not in os.environ, reason="OMFA_SAMPLES names no real photos")
def test_real_viton_hd_photos(tmp_path):
    report = build(Path(os.environ["OMFA_SAMPLES"]), tmp_path / "out")
    assert report.skipped == [] and report.built == 7
    source = open_records(tmp_path / "out", "test")
    records = [source[i] for i in range(len(source))]
    sources = {record.key: record.garment_source for record in records}
    assert [key for key, source in sources.items() if source == "in_shop"] == ["00006_00"]
    assert all(record.has_face and record.unpaired_garment for record in records)
