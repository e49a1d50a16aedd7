"""Line plots as inline SVG, and the loss curve of a run."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from omfa_jax.core.append_only import read_json_lines

COLOURS = (
    *("#1f6fb4", "#c8481e", "#2c8a4b", "#7b4fa3", "#777777"),
    *("#b8860b", "#0f8b8d", "#c2407c", "#5b3f1e", "#8aa400"),
)
WIDTH, PLOT_HEIGHT, FONT_PX = 760, 206, 12
# wider than any letter of common fonts on average, so that texts have room in every browser
LETTER_PX, LINE_PX = 0.62 * FONT_PX, 18
X_TICKS, Y_TICKS = 6, 6


def render_line_plot(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Return an SVG line plot with round tick labels and a legend below; they never overlap."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p class='note'>no points</p>"
    x_range, y_range = (_widen([point[axis] for point in points]) for axis in (0, 1))
    x_ticks, y_ticks = choose_ticks(*x_range, X_TICKS), choose_ticks(*y_range, Y_TICKS)
    y_labels, x_labels = format_ticks(y_ticks), format_ticks(x_ticks)
    top, left = LINE_PX + 10, 12 + round(max(map(_measure, y_labels)))
    # the last label is centred on a tick that may be the right end
    right, bottom = WIDTH - max(8, math.ceil(_measure(x_labels[-1]) / 2) + 1), top + PLOT_HEIGHT

    def place(px: float, py: float) -> tuple[float, float]:
        across = left + (px - x_range[0]) / (x_range[1] - x_range[0]) * (right - left)
        return across, bottom - (py - y_range[0]) / (y_range[1] - y_range[0]) * PLOT_HEIGHT

    shapes = [_text(0, FONT_PX, y)]
    for tick, label in zip(y_ticks, y_labels, strict=True):
        height = place(x_range[0], tick)[1]
        shapes.append(_line(left, height, right, height, "#e3e6ea"))
        shapes.append(_text(left - 6, height + 4, label, "end"))
    for tick, label in zip(x_ticks, x_labels, strict=True):
        across = place(tick, y_range[0])[0]
        shapes.append(_line(across, bottom, across, bottom + 5, "#999"))
        shapes.append(_text(across, bottom + LINE_PX, label, "middle"))
    shapes.append(_line(left, bottom, right, bottom, "#999"))
    shapes.append(_line(left, top, left, bottom, "#999"))
    shapes.append(_text((left + right) / 2, bottom + 2 * LINE_PX, x, "middle"))
    for index, line in enumerate(series.values()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in (place(*p) for p in line))
        # round caps, so that a line of one point is seen as a dot
        shapes.append(
            f'<polyline points="{path}{f" {path}" * (len(line) == 1)}" fill="none"'
            f' stroke="{colour}" stroke-width="{1.8 if len(line) > 1 else 6}"'
            ' stroke-linecap="round"/>'
        )
    legend, height = _render_legend(list(series), left, bottom + 3 * LINE_PX)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" font-size="{FONT_PX}"'
        f' font-family="system-ui, sans-serif">{"".join([*shapes, *legend])}</svg>'
    )


def choose_ticks(low: float, high: float, count: int) -> list[float]:
    """Return at most `count` multiples of 1, 2 or 5 times a power of ten, from low to high."""
    exact = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(step for m in (1, 2, 5, 10) if (step := m * power) >= exact * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)] or [low]


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Return labels of equally many decimals, "0.20", "20,000" or "2e+09"; distinct ones."""
    largest = max(map(abs, ticks))
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=largest or 1.0)
    if largest >= 1e9 or 0 < largest < 1e-3:
        digits = max(0, math.floor(math.log10(largest or 1)) - math.floor(math.log10(step)))
        return [f"{tick:.{digits}e}" if tick else "0" for tick in ticks]
    return [f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" for tick in ticks]


def _widen(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # a constant has no extent to divide by
    margin = 0.0 if high > low else abs(low) / 10 or 1.0
    return low - margin, high + margin


def _render_legend(names: Sequence[str], left: float, top: float) -> tuple[list[str], int]:
    """Return the names in rows that wrap at the right end, and the height of the drawing."""
    shapes, across, down = [], left, top
    for index, name in enumerate(names):
        # cut only where it would not fit a row of its own
        room = int((WIDTH - left - 24) / LETTER_PX)
        shown = name if len(name) <= room else name[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
        width = 24 + _measure(shown) + 16
        if across > left and across + width > WIDTH:
            across, down = left, down + LINE_PX
        colour = COLOURS[index % len(COLOURS)]
        shapes.append(
            f'<line x1="{across:.1f}" y1="{down - 4}" x2="{across + 18:.1f}" y2="{down - 4}"'
            f' stroke="{colour}" stroke-width="3"/>'
        )
        shapes.append(_text(across + 24, down, shown))
        across += width
    return shapes, round(down + 8)


def _measure(text: str) -> float:
    return len(text) * LETTER_PX


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def read_loss_curve(metrics_file: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the loss curves of a run's metrics.jsonl: the total and each task's.

    A truncated last line, as a killed run leaves it, is skipped with a warning.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for _, row in read_json_lines(metrics_file):
        for name, value in row.items():
            if "step" in row and (name == "loss" or name.startswith("loss/")):
                series.setdefault(name, []).append((row["step"], value))
    return series
