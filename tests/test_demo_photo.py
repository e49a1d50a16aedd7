"""What the demo says of a photo alone, without its minutes of training."""

from unittest.mock import Mock

import numpy as np
import pytest
from wide_photos import TINY

import omfa_jax as omfa
from omfa_jax.core.images import write_image
from omfa_jax.evals.demo_photo import FOUND, KNOWN, OTHER, PhotoCase, sample_photo_alone
from omfa_jax.evals.exact_truth import TruthAnswer
from omfa_jax.evals.report.demo_page import add_photo_alone
from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.model_loading import read_settings

SIZE_PX = (128, 96)


def describe(found):
    page = HtmlPage("title", "lead")
    add_photo_alone(page, found)
    return page.to_html()


def test_a_photo_without_a_person_is_said_and_nothing_sampled(tmp_path, caplog):
    blank, nothing = np.full((*SIZE_PX, 3), 255, np.uint8), np.zeros(SIZE_PX, bool)
    write_image(tmp_path / "blank.jpg", blank)
    answer = TruthAnswer(blank, nothing, nothing, blank)
    case = PhotoCase(tmp_path / "blank.jpg", blank, blank, blank, answer)
    sampler = Mock()
    columns, found = sample_photo_alone(sampler, omfa.SlotFitter(read_settings(TINY)), case)
    assert not sampler.called
    assert list(columns) == ["photo", "garment"] and "psnr_db" not in found
    assert "no picture from a photo alone" in caplog.text
    page = describe(found)
    assert "Nothing was made of this photo" in page and "no person found (best score" in page
    assert "(96x128 px," in page and "PSNR" not in page


@pytest.mark.parametrize(("photo", "says"), [(14.5, "0.75 dB worse"), (15.5, "0.25 dB better")])
def test_the_report_says_what_the_pose_from_the_photo_loses(photo, says):
    levels = {FOUND: photo, KNOWN: 15.25, OTHER: 11.0}
    rows = {name: {"person": value, "whole": value + 2} for name, value in levels.items()}
    page = describe(
        {"photo_px": [96, 128], "psnr_db": rows, "loss_db": round(levels[KNOWN] - photo, 2)}
    )
    assert f"the picture from the photo alone is {says}" in page
    assert "in another person&#x27;s pose 4.25 dB worse" in page
