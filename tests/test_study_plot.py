"""The plots of a scaling fit: the labels of no axis overlap, whatever it spans."""

import itertools

import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from omfa_jax.studies.study_plot import choose_log_ticks, set_log_ticks

# of a panel of the study: 13 by 10 inches are four of them
PANEL_INCHES = (6.5, 5)


def find_labels(side, renderer):
    """Return text and extent along the axis of the labels that are drawn."""
    low, high = side.get_view_interval()
    shown = [
        (text.get_text(), text.get_window_extent(renderer))
        for major in (True, False)
        for at, text in zip(
            side.get_ticklocs(minor=not major), side.get_ticklabels(minor=not major), strict=True
        )
        if low <= at <= high and text.get_text()
    ]
    along = "x" if side.axis_name == "x" else "y"
    return sorted((getattr(b, f"{along}0"), getattr(b, f"{along}1"), text) for text, b in shown)


def draw(decades, name, mend):
    figure = Figure(figsize=PANEL_INCHES, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    start = 0.23 if name == "loss" else 1.3e12
    axis.plot([start, start * 10**decades], [start, start * 10**decades])
    axis.set(xscale="log", yscale="log", xlabel="FLOPs", ylabel=name)
    if mend:
        set_log_ticks(axis.xaxis)
        set_log_ticks(axis.yaxis)
    canvas.draw()
    return [find_labels(side, canvas.get_renderer()) for side in (axis.xaxis, axis.yaxis)]


def overlap(labels):
    return [(a[2], b[2]) for a, b in itertools.pairwise(labels) if a[1] + 3 > b[0]]


@pytest.mark.parametrize("name", ["loss", "parameters"])
def test_labels_of_any_span_do_not_overlap(name):
    for decades in (0.01, 0.2, 0.6, 1.3, 2, 2.6, 4, 12):
        for labels in draw(decades, name, mend=True):
            assert len(labels) >= 2 and not overlap(labels), (decades, labels)
            assert len({text for *_, text in labels}) == len(labels), (decades, labels)


def test_matplotlibs_own_labels_overlap():
    assert any(overlap(labels) for labels in draw(1.2, "parameters", mend=False))


def test_ticks_are_as_many_as_fit():
    assert choose_log_ticks(0.9e12, 6e13, 5) == [1e12, 3e12, 1e13, 3e13]
    assert choose_log_ticks(0.21, 0.61, 10) == pytest.approx([0.25, 0.3, 0.4, 0.5])
    assert choose_log_ticks(1, 1e12, 5) == [1, 1e3, 1e6, 1e9, 1e12]
