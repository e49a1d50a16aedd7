"""`omfa scaling fit` and `plot`: from a table on disk to JSON, text and pictures."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scaling_tables import (
    ALPHA,
    BETA,
    TRUE_LAW,
    E,
    places,
    read_json,
    repeating,
    runs_of,
    write_csv,
)

from omfa_jax.cli.main import main
from omfa_jax.studies.loss_law import compute_loss

FLAGS = ("--budget", "1e21", "100000T", "--predict", "1e9,40B", "3B,1e11", "--resamples", "200")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A table of noisy runs with two bad lines, and what fit wrote of it."""
    folder = tmp_path_factory.mktemp("scaling")
    noise = 0.004 * np.random.default_rng(2).standard_normal(30)
    table = write_csv(folder / "runs.csv", runs_of(*places("isoflop"), noise=noise))
    table.write_text(table.read_text() + "1e9,1e10,nan,6e19\n1e9,1e10,0,6e19\n")
    out = folder / "fit.json"
    assert main(["scaling", "fit", "--table", str(table), *FLAGS, "--out", str(out)]) == 0
    return folder, out


def test_the_record_holds_everything(fitted):
    data = read_json(fitted[1])
    for name, value in (("alpha", ALPHA), ("beta", BETA), ("E", E)):
        one = data["law"]["coefficients"][name]
        assert one["low"] < value < one["high"] and one["low"] < one["estimate"] < one["high"]
    assert [one["line"] for one in data["excluded"]] == [32, 33]
    assert len(data["runs"]) == 30 and all(run["log_residual"] is not None for run in data["runs"])
    assert [one["flops"] for one in data["optima"]] == [1e21, 1e17]
    first, second = data["predictions"]
    assert (first["params"], first["samples"], first["flops"]) == (1e9, 4e10, 2.4e20)
    for one in (first, second):
        loss, run = one["loss"], one["run"]
        true = float(compute_loss(TRUE_LAW, one["params"], one["samples"]))
        assert run["low"] < loss["low"] < true < loss["high"] < run["high"]
        assert loss["estimate"] == run["estimate"] == pytest.approx(true, rel=5e-3)
    assert second["beyond"] == pytest.approx(1.8, rel=0.01)
    assert data["isoflop"]["sum"]["low"] < 1 < data["isoflop"]["sum"]["high"]
    assert data["held_out"]["rms"] < 0.05 and data["columns"]["flops"] == "flops"
    assert data["settings"]["resamples"] == 200 and data["repeats"] is None


def test_the_text_says_it_all(fitted, capsys):
    table = fitted[0] / "runs.csv"
    assert main(["scaling", "fit", "--table", str(table), "--resamples", "100"]) == 0
    text = capsys.readouterr().out
    for part in ("excluded, line 32: loss is missing", "alpha ", "consistent with 1", "held out"):
        assert part in text, text


def test_the_same_table_gives_the_same_record(fitted):
    folder, out = fitted
    again = ["--table", str(folder / "runs.csv"), "--out", str(folder / "b.json")]
    assert main(["scaling", "fit", *again, *FLAGS]) == 0
    assert (folder / "b.json").read_bytes() == out.read_bytes()


def test_pictures(fitted):
    pytest.importorskip("matplotlib")
    folder, out = fitted
    png, html = folder / "p.png", folder / "p.html"
    assert main(["scaling", "plot", "--fit", str(out), "--out", str(png), str(html)]) == 0
    pixels = np.asarray(Image.open(png).convert("RGB"))
    # every panel has ink, and the law's orange is there
    for half in np.array_split(pixels, 2, axis=0):
        for panel in np.array_split(half, 2, axis=1):
            assert (panel < 200).all(-1).mean() > 0.005
    assert (np.abs(pixels.astype(int) - [0xD8, 0x69, 0x0F]).sum(-1) < 30).sum() > 500
    page = html.read_text()
    assert "<svg" in page and "line 32" not in page and "loss is missing" in page
    # nothing is fetched from elsewhere
    assert "src=" not in page and "<link" not in page and "@import" not in page


def test_a_refusal_is_written_and_fails(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    sizes = np.geomspace(1e7, 1e9, 9)
    table = write_csv(tmp_path / "t.csv", runs_of(sizes, 20 * sizes), flops="")
    out = tmp_path / "fit.json"
    assert main(["scaling", "fit", "--table", str(table), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "fixed ratio" in printed.err and "REFUSED" in printed.out
    data = read_json(out)
    assert "fixed ratio" in data["law"]["refused"] and "coefficients" not in data["law"]
    html = tmp_path / "p.html"
    assert main(["scaling", "plot", "--fit", str(out), "--out", str(html)]) == 0
    assert "No law was fitted" in html.read_text()


def test_repeated_samples(tmp_path, capsys):
    runs = repeating(np.random.default_rng(5), 0.004)
    table = write_csv(tmp_path / "t.csv", runs, unique="unique_samples", flops="")
    out = tmp_path / "fit.json"
    flags = ["--resamples", "100", "--budget", "1e22", "--dataset-size", "1B", "--out", str(out)]
    assert main(["scaling", "fit", "--table", str(table), *flags]) == 0
    assert "R*_D" in capsys.readouterr().out
    data = read_json(out)
    assert data["law"]["runs"] == 30 and len(data["runs"]) == 60
    assert data["repeats"]["r_samples"]["low"] < 15.4 < data["repeats"]["r_samples"]["high"]
    plain, scarce = data["optima"]
    assert scarce["loss"]["low"] > plain["loss"]["high"] and "distinct" in scarce["notes"][0]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--budget", "lots"], "--budget: number 'lots'"),
        (["--budget", "-1e20"], "--budget"),
        (["--seed", "-1"], "--seed: expected an integer from 0"),
        (["--predict", "1e9"], "--predict: expected PARAMS,SAMPLES"),
        (["--predict", "1e9,0"], "--predict must be above 0"),
        (["--predict", "1e9,x"], "--predict: number 'x'"),
        (["--hold-out", "1"], "--hold-out: expected a number above 0 and below 0.9"),
        (["--resamples", "5"], "--resamples"),
        (["--outlier-mad", "-1"], "--outlier-mad"),
        (["--drop-highest", "-1"], "--drop-highest"),
        (["--max-loss", "0"], "--max-loss"),
        (["--dataset-size", "1e9"], "--dataset-size needs the data-constrained law"),
        (["--flops-per-param-sample", "0"], "--flops-per-param-sample"),
        (["--loss-column", "lose"], "--loss-column: unknown column"),
    ],
)
def test_wrong_flags(fitted, capsys, flags, wanted):
    table = str(fitted[0] / "runs.csv")
    status = main(["scaling", "fit", "--table", table, "--resamples", "100", *flags])
    assert status == 2 and wanted in capsys.readouterr().err


def test_a_law_without_an_optimum_is_drawn_and_said(tmp_path, capsys):
    """More parameters make it worse: alpha is below 0, and no size is the best."""
    pytest.importorskip("matplotlib")
    params, samples = (grid.ravel() for grid in np.meshgrid([1e6, 3e6, 1e7], [1e7, 1e8, 1e9, 1e10]))
    loss = 1 + 2e-4 * params**0.3 + 100 / samples**0.4
    table = write_csv(tmp_path / "t.csv", runs_of(params, samples, loss=loss))
    found, out = tmp_path / "f.json", tmp_path / "p.html"
    flags = ["--budget", "1e18", "--predict", "1e12,1e13", "1e6,1e5", "--out", str(found)]
    status = main(["scaling", "fit", "--table", str(table), "--resamples", "100", *flags])
    data = read_json(found)
    assert (
        data["law"]["refused"] is not None or data["law"]["coefficients"]["a"]["estimate"] is None
    )
    assert main(["scaling", "plot", "--fit", str(found), "--out", str(out)]) == 0
    assert status in (0, 2) and out.exists()


def test_a_run_far_from_the_table_says_so(tmp_path):
    table = write_csv(tmp_path / "t.csv", runs_of(*places("grid"), noise=np.full(30, 1e-3)))
    out = tmp_path / "f.json"
    flags = ["--predict", "1e12,1e13", "1e6,1e5", "--resamples", "100", "--out", str(out)]
    assert main(["scaling", "fit", "--table", str(table), *flags]) == 0
    large, small = (one["notes"] for one in read_json(out)["predictions"])
    assert "the largest compute" in large[0] and "largest number of parameters" in large[1]
    assert "smallest number of parameters" in small[0] and "smallest number of samples" in small[1]


def test_wrong_records(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "old.json").write_text('{"law": {}, "isoflop": {}, "runs": []}')
    for name, out, wanted in (
        ("x.json", "p.png", "is not an output of this version's `omfa scaling fit"),
        ("old.json", "p.html", "or fit again"),
        ("none.json", "p.png", "--fit"),
    ):
        flags = ["--fit", str(tmp_path / name), "--out", str(tmp_path / out)]
        assert main(["scaling", "plot", *flags]) == 2
        assert wanted in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(fitted):
    command = [sys.executable, "-m", "omfa_jax.cli.main", "scaling", "fit", "--resamples", "100"]
    with subprocess.Popen(
        [*command, "--table", str(fitted[0] / "runs.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=120), said) == (141, b"")
