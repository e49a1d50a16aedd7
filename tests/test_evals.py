import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.influence import measure_influence, sample_derangement
from omfa_jax.evals.psnr import CEILING_DB, mean_psnr, psnr
from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.evals.report.svg_curves import read_loss_curve


def pictures(seed, count=3):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 6, 3)).astype(np.uint8)


def test_psnr_matches_skimage():
    a, b = pictures(0), pictures(1)
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)]
    assert psnr(a[0], b[0]) == pytest.approx(expected[0], abs=1e-9)
    assert mean_psnr(a, b) == pytest.approx(np.mean(expected), abs=1e-9)
    assert psnr(a[0], a[0]) == CEILING_DB


def test_psnr_counts_the_region_alone():
    truth = pictures(0)[0]
    image, region = truth.copy(), np.zeros((8, 6), bool)
    image[:4] = 255 - image[:4]
    region[4:] = True
    assert psnr(image, truth, region) == CEILING_DB
    assert psnr(image, truth, ~region) < 20
    with pytest.raises(OmfaError, match="region is empty"):
        psnr(image, truth, np.zeros((8, 6), bool))
    with pytest.raises(OmfaError, match="one size"):
        psnr(image, truth[:4])


@pytest.mark.parametrize("count", [2, 3, 17])
def test_a_derangement_moves_everybody(count):
    swap = sample_derangement(count, 0)
    assert sorted(swap) == list(range(count))
    assert not (swap == np.arange(count)).any()


def test_influence_is_zero_for_a_model_that_ignores_its_condition():
    truth = pictures(0)
    batch = {"garment": truth.astype(np.float32)}
    blind, _ = measure_influence(lambda b: pictures(5), batch, ["garment"], truth, None, seed=0)
    assert blind.gain_db == 0
    seeing, wrong = measure_influence(
        lambda b: b["garment"].astype(np.uint8), batch, ["garment"], truth, None, seed=0
    )
    assert seeing.right_db == CEILING_DB and seeing.gain_db > 100
    np.testing.assert_array_equal(wrong, truth[sample_derangement(3, 0)])


def test_the_report_is_one_file_that_escapes_what_it_is_given(tmp_path):
    lines = [{"step": s, "loss": 1 / s, "loss/try_on": 2.0} for s in (1, 2)]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in lines))
    curve = read_loss_curve(metrics)
    assert curve == {"loss": [(1, 1.0), (2, 0.5)], "loss/try_on": [(1, 2.0), (2, 2.0)]}
    page = HtmlPage("<title>", "lead")
    page.add_table(("a", "b"), [("x", 1.23456), ("y", True)])
    page.add_image(pictures(0)[0], "a & b")
    page.add_line_plot(curve, "steps", "loss")
    page.add_commands("omfa <command>")
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for piece in ("&lt;title&gt;", "1.23<", "data:image/png;base64,", "<polyline", "a &amp; b"):
        assert piece in text
    assert "http" not in text.replace("http://www.w3.org", "")
