"""One self-contained HTML page: figures, pictures, a loss curve, and what to type next."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.files import atomic_write
from omfa_jax.core.images import encode_png

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; background: #fdfdfd }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 0.6rem 0 } td, th { padding: 0.25rem 0.9rem 0.25rem 0;
       text-align: left; border-bottom: 1px solid #eee; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; image-rendering: auto; border: 1px solid #ddd }
pre { background: #f3f3f3; padding: 0.8rem; overflow-x: auto } .note { color: #555 }
.pass { color: #0a6b2d; font-weight: 600 } .fail { color: #a81616; font-weight: 600 }
"""


@dataclass
class Report:
    """A page under construction: sections in the order they are added."""

    title: str
    lead: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Start a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are aligned right and shown with three significant digits."""
        cells = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in header) + "</tr>"]
        cells += ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
        self.parts.append("<table>" + "".join(cells) + "</table>")

    def picture(self, image: UInt8[np.ndarray, "h w 3"], caption: str) -> None:
        """Add a picture, embedded."""
        data = base64.b64encode(encode_png(image)).decode()
        self.parts.append(
            f'<p class="note">{html.escape(caption)}</p>'
            f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        )

    def curve(self, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> None:
        """Add a line plot of (x, y) points, one line a name, as inline SVG."""
        self.parts.append(line_plot(series, x, y))

    def commands(self, text: str) -> None:
        """Add commands to type."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def write(self, path: Path) -> None:
        """Write the page; the file is whole or absent."""
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
            f"{html.escape(self.title)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{html.escape(self.title)}</h1><p>{html.escape(self.lead)}</p>"
            + "\n".join(self.parts)
            + "</body></html>\n"
        )
        with atomic_write(path) as temporary:
            temporary.write_text(page)


def cell(value: object) -> str:
    """Return one table cell; True and False become pass and fail."""
    if isinstance(value, bool):
        return f'<td class="{"pass" if value else "fail"}">{"yes" if value else "no"}</td>'
    if isinstance(value, float):
        return f'<td class="n">{value:.3g}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


COLOURS = ("#1f6fb4", "#c8481e", "#2c8a4b", "#7b4fa3", "#777777")


def line_plot(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Return an SVG line plot with axes labelled at their ends."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p class='note'>no points</p>"
    width, height, left, bottom, top = 760, 260, 60, 40, 14
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def place(px: float, py: float) -> str:
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


def loss_curve(metrics_file: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the loss series of a run's metrics.jsonl: total and each task's.

    A line that a kill cut short is left out.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for line in metrics_file.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for name, value in row.items():
            if name == "loss" or name.startswith("loss/"):
                series.setdefault(name, []).append((row["step"], value))
    return series
