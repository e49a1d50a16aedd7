"""The whole path, small: what `make demo` runs, with a handful of people and steps."""

import json

from omfa_jax.cli.main import main


def test_the_demo_runs_from_nothing_to_the_report(tmp_path):
    flags = ["--train=8", "--test=4", "--steps=2", "--sampling-steps=2", "--processes=1"]
    assert main(["demo", f"--workdir={tmp_path}", *flags]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["influence"]) == 3
    assert set(scores["exact_truth_psnr_db"]) >= {"try_on, unpaired garment", "try_on, new pose"}
    for name in ("unet", "vae encoder", "vae decoder"):
        assert scores["export"][name]["relative_l2"] <= 5e-6
    assert len(scores["seconds"]) == 8
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == len(list((tmp_path / "sheets").glob("*.png"))) == 6
