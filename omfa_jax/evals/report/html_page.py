"""The builder of every HTML page: one file with its style and images inside, nothing fetched."""

import base64
import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.images import encode_jpeg, encode_png
from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.report.svg_curves import render_line_plot

STYLE = """
:root { --ink: #1b1f24; --soft: #5b6470; --line: #dfe3e8; --wash: #f5f7f9; --mark: #0a5c36 }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 68rem;
       margin: 0 auto; padding: 1.5rem 1rem 4rem; color: var(--ink); background: #fff;
       overflow-wrap: anywhere }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem;
     border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p { margin: .5rem 0; max-width: 48rem } .note, small { color: var(--soft) }
.scroll { overflow-x: auto; margin: .7rem 0 }
table { border-collapse: collapse; font-size: .94rem }
td, th { overflow-wrap: normal; padding: .35rem .8rem; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line) }
th { font-weight: 600; white-space: nowrap; border-bottom: 2px solid #b8c0c9 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td small, th small { display: block; font-weight: 400; font-size: .8em }
td.note { font-size: .8rem } td.best b { color: var(--mark) }
tbody tr:hover td { background: var(--wash) }
img, svg { max-width: 100%; height: auto } img { border: 1px solid var(--line) }
pre { background: var(--wash); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem }
pre.prose { white-space: pre-wrap }
.pass { color: #0a6b2d; font-weight: 600 } .fail { color: #a81616; font-weight: 600 }
.warn { background: #fff6e0; border-left: 4px solid #d99a00; padding: .6rem 1rem; margin: 1rem 0 }
.warn ul { margin: .3rem 0; padding-left: 1.2rem } details { margin: .6rem 0 }
summary { cursor: pointer } .example { margin: .9rem 0 1.4rem; break-inside: avoid }
.row { display: flex; flex-wrap: wrap; gap: .6rem } figure { margin: 0; width: 9.6rem }
figure img, .absent { display: block; width: 100%; aspect-ratio: 3 / 4; object-fit: contain;
                      background: var(--wash) }
.absent { display: grid; place-content: center; text-align: center; color: var(--soft);
          border: 1px dashed #b8c0c9; padding: .5rem; font-size: .8rem }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; padding-top: .2rem }
figcaption small { display: block }
.scroll td:first-child, .scroll th:first-child { position: sticky; left: 0; background: #fff }
tr.first:not(:first-child) td { border-top: 2px solid #b8c0c9 } .again { color: var(--soft) }
@media (max-width: 40rem) { body { padding-top: 1rem } td, th { padding: .3rem .5rem }
  figure { width: calc(33.3% - .4rem) } h1 { font-size: 1.45rem }
  .scroll td:first-child { min-width: 8rem; max-width: 9rem; overflow-wrap: anywhere } }
@media print { body { max-width: none; padding: 0; font-size: 10pt } .scroll { overflow: visible }
  table { font-size: 8pt } td, th { padding: .15rem .35rem } figure { width: 3.1cm }
  h2, h3, .top { break-after: avoid } tr { break-inside: avoid }
  pre { white-space: pre-wrap; font-size: 8pt } }
"""


@dataclass(frozen=True)
class Figure:
    """An image with its caption and a second, smaller line; `absent` is shown without an image."""

    caption: str
    image: UInt8[np.ndarray, "h w 3"] | None
    below: str = ""
    absent: str = ""


@dataclass(frozen=True)
class TableCell:
    """A table cell: its text, a second and smaller line, and how it is shown.

    `footnote` is the number of a note below the table, 0 for none. `again` greys out a label that
    repeats the row above.
    """

    text: str
    below: str = ""
    number: bool = False
    best: bool = False
    again: bool = False
    footnote: int = 0


@dataclass
class HtmlPage:
    """A page under construction: sections in the order they are added. All text is escaped."""

    title: str
    lead: str
    parts: list[str] = field(default_factory=list)

    def add_heading(self, text: str) -> None:
        """Start a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def add_text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def add_subheading(self, text: str) -> None:
        """Start a part of a section."""
        self.parts.append(f"<h3>{html.escape(text)}</h3>")

    def add_note(self, text: str) -> None:
        """Add a paragraph in grey."""
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def add_warnings(self, title: str, lines: Sequence[str]) -> None:
        """Add a highlighted box with one item a line; add nothing if there are no lines."""
        if lines:
            box = f"<strong>{html.escape(title)}</strong>{_list(lines)}"
            self.parts.append(f'<div class="warn" role="alert">{box}</div>')

    def add_details(self, title: str, lines: Sequence[str]) -> None:
        """Add a list that is collapsed until its title is clicked."""
        self.parts.append(
            f"<details><summary>{html.escape(title)}</summary>{_list(lines)}</details>"
        )

    def add_list(self, lines: Sequence[str]) -> None:
        """Add a bulleted list."""
        self.parts.append(_list(lines))

    def add_figures(self, title: str, figures: Sequence[Figure]) -> None:
        """Add small images side by side under one title; they wrap on a narrow screen."""
        row = "".join(map(_figure, figures))
        self.parts.append(
            f'<div class="example"><div class="top"><strong>{html.escape(title)}</strong></div>'
            f'<div class="row">{row}</div></div>'
        )

    def add_preformatted(self, text: str) -> None:
        """Add preformatted text, wrapped at the edge of the screen."""
        self.parts.append(f'<pre class="prose">{html.escape(text)}</pre>')

    def add_table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are aligned right and shown with three significant digits."""
        # one number makes its column numeric: missing values are empty strings
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        numbers = [any(map(_is_number, column)) for column in columns]
        heads = [TableCell(h, number=n) for h, n in zip(header, numbers, strict=True)]
        self._table(heads, ["".join(map(format_cell, row)) for row in rows])

    def add_rich_table(
        self,
        header: Sequence[TableCell],
        rows: Sequence[Sequence[TableCell]],
        first_rows: Collection[int] = (),
    ) -> None:
        """Add a table of `TableCell`s; `first_rows` are the rows that start a group."""
        bodies = ["".join(_rich_cell(one) for one in row) for row in rows]
        self._table(header, bodies, first_rows)

    def _table(
        self,
        header: Sequence[TableCell],
        rows: Sequence[str],
        first_rows: Collection[int] = (),
    ) -> None:
        head = "".join(_rich_cell(one, "th") for one in header)
        starts = ['<tr class="first">' if i in first_rows else "<tr>" for i in range(len(rows))]
        body = "".join(f"{start}{row}</tr>" for start, row in zip(starts, rows, strict=True))
        self.parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def add_image(self, image: UInt8[np.ndarray, "h w 3"], caption: str) -> None:
        """Add an image at its own size, embedded as PNG."""
        # PNG, because sheets have text and small pixels that JPEG would blur
        data = base64.b64encode(encode_png(image)).decode()
        self.parts.append(
            f'<p class="note">{html.escape(caption)}</p>'
            f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        )

    def add_line_plot(
        self, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str
    ) -> None:
        """Add a line plot of (x, y) points, one line per name, as inline SVG."""
        self.add_svg(render_line_plot(series, x, y))

    def add_svg(self, markup: str) -> None:
        """Add an SVG drawing. It is the one part that is not escaped, so make it here."""
        self.parts.append(markup)

    def add_commands(self, text: str) -> None:
        """Add shell commands."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def write(self, path: AnyPath) -> None:
        """Write the page atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """Return the complete document."""
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>'
            f"{html.escape(self.title)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{html.escape(self.title)}</h1><p>{html.escape(self.lead)}</p>"
            + "\n".join(self.parts)
            + "</body></html>\n"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_cell(value: object) -> str:
    """Return the HTML of one cell of a plain table; True and False become a green or red word."""
    # first, because True and False are integers as well
    if isinstance(value, bool):
        return f'<td class="{"pass" if value else "fail"}">{"yes" if value else "no"}</td>'
    if isinstance(value, float):
        number = f"{value:#.3g}".rstrip(".")  # "12.0", "16.2" and "123", not "123."
        return f'<td class="n">{number}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def _rich_cell(one: TableCell, tag: str = "td") -> str:
    mark = f"<sup>{one.footnote}</sup>" if one.footnote else ""
    kinds = {"n": one.number, "best": one.best, "again": one.again, "note": bool(mark)}
    classes = " ".join(kind for kind, holds in kinds.items() if holds)
    opening = f'<{tag} class="{classes}">' if classes else f"<{tag}>"
    text = html.escape(one.text)
    text = f"<b>{text}</b>" if one.best else text
    below = f"<small>{html.escape(one.below)}</small>" if one.below else ""
    return f"{opening}{text}{mark}{below}</{tag}>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _figure(figure: Figure) -> str:
    caption, below = html.escape(figure.caption), html.escape(figure.below)
    if figure.image is None:
        shown = f'<div class="absent">{html.escape(figure.absent)}</div>'
    else:
        # JPEG keeps a page with hundreds of photos small
        data = base64.b64encode(encode_jpeg(figure.image, quality=85)).decode()
        shown = f'<img alt="{caption}" src="data:image/jpeg;base64,{data}">'
    small = f"<small>{below}</small>" if below else ""
    return f"<figure>{shown}<figcaption>{caption}{small}</figcaption></figure>"


def format_count(count: int, noun: str) -> str:
    """Return "1 image", "2,032 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
