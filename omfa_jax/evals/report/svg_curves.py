"""Line plots as inline SVG, and the loss curve of a run."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from omfa_jax.core.append_only import read_json_lines

COLOURS = ("#1f6fb4", "#c8481e", "#2c8a4b", "#7b4fa3", "#777777")


def render_line_plot(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Return an SVG line plot whose axes are labelled at their ends."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p class='note'>no points</p>"
    width, height, left, bottom, top = 760, 260, 60, 40, 14
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    # a single point or a constant has no extent to divide by
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def place(px: float, py: float) -> str:
        # the 110 units on the right are for the names of the lines
        across = left + (px - x0) / (x1 - x0) * (width - left - 110)
        up = height - bottom - (py - y0) / (y1 - y0) * (height - bottom - top)
        return f"{across:.1f},{up:.1f}"

    shapes = [
        f'<line x1="{left}" y1="{height - bottom}" x2="{width - 110}" y2="{height - bottom}"'
        ' stroke="#999"/>',
        f'<line x1="{left}" y1="{top}" x2="{left}" y2="{height - bottom}" stroke="#999"/>',
        f'<text x="{left}" y="{height - 14}">{x0:g}</text>',
        f'<text x="{width - 150}" y="{height - 14}">{x1:g} {html.escape(x)}</text>',
        f'<text x="4" y="{height - bottom}">{y0:.3g}</text>',
        f'<text x="4" y="{top + 10}">{y1:.3g} {html.escape(y)}</text>',
    ]
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(place(*point) for point in line)
        shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        shapes.append(
            f'<text x="{width - 104}" y="{top + 14 + 18 * index}" fill="{colour}">'
            f"{html.escape(name)}</text>"
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" font-size="12"'
        f' font-family="system-ui, sans-serif">{"".join(shapes)}</svg>'
    )


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
