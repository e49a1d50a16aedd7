"""Real VITON-HD photos become records; they are not in the project, OMFA_SAMPLES names them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body.body_file import load_body
from omfa_jax.cli.main import main
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.records.record_schema import open_records


@pytest.mark.skipif("OMFA_SAMPLES" not in os.environ, reason="OMFA_SAMPLES names no real photos")
def test_real_viton_hd_photos(tmp_path):
    report = build_records(Path(os.environ["OMFA_SAMPLES"]), tmp_path / "out")
    assert report.skipped == [] and report.built == 7
    source = open_records(tmp_path / "out", "test")
    records = [source[i] for i in range(len(source))]
    sources = {record.key: record.garment_source for record in records}
    assert [key for key, source in sources.items() if source == "in_shop"] == ["00006_00"]
    assert all(record.has_face and record.unpaired_garment for record in records)


@pytest.mark.skipif("OMFA_SAMPLES" not in os.environ, reason="OMFA_SAMPLES names no real photos")
def test_bodies_are_fitted_to_real_keypoints(tmp_path):
    samples = Path(os.environ["OMFA_SAMPLES"]) / "test"
    for name in ("image", "openpose_json"):
        shutil.copytree(samples / name, tmp_path / "test" / name)
    main(["data", "fit", "--raw", str(tmp_path), "--batch-size", "7"])
    photos = json.loads((tmp_path / "test" / "fit_report.json").read_text())["photos"]
    assert len(photos) == 7 and all(photo["accepted"] for photo in photos.values())
    assert max(photo["median_of_image"] for photo in photos.values()) <= 0.02
    for name in photos:
        params, _ = load_body(tmp_path / "test" / "smplx" / f"{name}.npz")
        # everybody faces the camera and stands
        assert np.linalg.norm(params.global_orient) < np.deg2rad(60)
        assert np.abs(params.body_pose[[0, 1, 3, 4]]).max() < 1.0
