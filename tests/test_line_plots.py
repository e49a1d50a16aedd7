"""Line plots: ticks are round and in range, and no two texts overlap."""

import html
import re

import numpy as np
import pytest

from omfa_jax.evals.report.svg_curves import (
    FONT_PX,
    LETTER_PX,
    WIDTH,
    choose_ticks,
    format_ticks,
    render_line_plot,
)

LONG = "loss/a_method_with_quite_a_long_name_"
PLOTS = {
    "many steps": {"loss": [(1000, 0.5), (12_345_678, 1.5e-9)]},
    "a single point": {"loss": [(200, 0.5)]},
    "a constant": {"loss": [(1, 0.0), (5, 0.0)]},
    "a narrow range": {"loss": [(99_990, 1.00001), (99_999, 1.00003)]},
    "negative and large": {"loss": [(0, -3.5e10), (600, 1.2e12)]},
    "long names": {f"{LONG}{index}" * (1 + index): [(0, 1), (9, index)] for index in range(12)},
}


def find_boxes(svg):
    """Return (x0, y0, x1, y1) and text of each label, by the width that a letter has at most."""
    found = re.findall(r'<text x="(.*?)" y="(.*?)" text-anchor="(.*?)">(.*?)</text>', svg)
    boxes = []
    for x, y, anchor, text in found:
        width = len(html.unescape(text)) * LETTER_PX
        left = float(x) - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        boxes.append((left, float(y) - FONT_PX, left + width, float(y) + 2, text))
    return boxes


def find_overlaps(boxes):
    return [
        (a[4], b[4])
        for index, a in enumerate(boxes)
        for b in boxes[:index]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


@pytest.mark.parametrize("name", PLOTS)
def test_no_two_labels_overlap_or_leave_the_drawing(name):
    svg = render_line_plot(PLOTS[name], "training steps of the run", "PSNR against truth (dB)")
    boxes = find_boxes(svg)
    assert len(boxes) >= 2 + 2 * 2 + len(PLOTS[name])
    assert not find_overlaps(boxes)
    height = int(svg.split('viewBox="0 0 ')[1].split('"')[0].split()[1])
    assert all(x0 >= 0 and x1 <= WIDTH and y0 >= 0 and y1 <= height for x0, y0, x1, y1, _ in boxes)
    # every point is inside the axes
    points = np.array(
        re.findall(r"([\d.-]+),([\d.-]+)", " ".join(svg.split('points="')[1:])), float
    )
    assert (points >= 0).all() and (points[:, 0] <= WIDTH).all() and (points[:, 1] < height).all()


def test_overlaps_would_be_found():
    svg = '<text x="0" y="20" text-anchor="start">ab</text>' * 2
    assert find_overlaps(find_boxes(svg)) == [("ab", "ab")]


def test_ticks_are_round_few_and_told_apart():
    assert choose_ticks(0, 1000, 6) == [0, 200, 400, 600, 800, 1000]
    assert format_ticks(choose_ticks(1000, 1_000_000, 6))[-1] == "1,000,000"
    assert format_ticks([0.98, 1.0]) == ["0.98", "1.00"]
    rng = np.random.default_rng(0)
    for _ in range(500):
        low = float(rng.normal() * 10 ** rng.uniform(-8, 8))
        high = low + max(abs(low) * 1e-4, 1e-9) * 10 ** rng.uniform(0, 6)
        ticks = choose_ticks(low, high, 6)
        assert 1 <= len(ticks) <= 7 and low - (high - low) * 1e-6 <= ticks[0] <= high
        labels = format_ticks(ticks)
        assert len(set(labels)) == len(labels), (low, high, labels)
        read = [float(label.replace(",", "")) for label in labels]
        np.testing.assert_allclose(read, ticks, atol=(high - low) * 0.06)
