"""Score tables, methods by metrics: how each number is rounded, and which is the best."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.scores_file import Metric, Scores

ABSENT = "not in this scores file"
NO_CATEGORIES = "no categories in this scores file (--categories or --pairs of `omfa eval`)"
NO_IMAGES = "no images of this category"


@dataclass(frozen=True)
class Column:
    """A metric: how its numbers are scaled and rounded. `better` is "higher" or "lower"."""

    name: str
    label: str
    better: str
    scale: float
    decimals: int

    @property
    def factor(self) -> str:
        """The scale as shown after the label: "" or "x1000"."""
        return "" if self.scale == 1 or f"{self.scale:g}" in self.label else f"x{self.scale:g}"

    def format_value(self, value: float) -> str:
        """Return the number as text, without "-0.00"."""
        text = f"{value:.{self.decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text


@dataclass(frozen=True)
class Cell:
    """One number in the column's scale, or the reason why there is none."""

    value: float | None
    text: str
    interval: tuple[float, float] | None = None
    interval_text: str = ""
    best: bool = False
    why: str = ""


@dataclass(frozen=True)
class Row:
    """A row's labels (one for each leading column) and its numbers."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ScoresTable:
    """Rows of numbers; the best of a column is marked, and so are ties at the digits shown."""

    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


LabelledMetrics = tuple[tuple[str, ...], Mapping[str, Metric]]


def group_scores(scores: Sequence[Scores]) -> list[list[Scores]]:
    """Return the files grouped by protocol and setting, one table each.

    Raises OmfaError for two files of one method in a group, or a group without a common metric.
    """
    groups: dict[tuple[str, str], list[Scores]] = {}
    for one in scores:
        # numbers of different protocols or settings must not stand in one column
        groups.setdefault((one.protocol.name, one.protocol.setting), []).append(one)
    for (name, setting), group in groups.items():
        methods = [one.method for one in group]
        twice = sorted({method for method in methods if methods.count(method) > 1})
        if twice:
            raise OmfaError(
                f"two scores files have the method {twice[0]!r} ({name}, {setting}): leave one out,"
                " or score one again with another --method"
            )
        if not set.intersection(*(set(one.metrics) for one in group)):
            has = "; ".join(f"{one.method} has {', '.join(one.metrics) or 'none'}" for one in group)
            raise OmfaError(f"the scores files have no metric in common: {has}")
    return list(groups.values())


def make_methods_table(group: Sequence[Scores]) -> ScoresTable:
    """Return a table with one row a method."""
    return make_table(("method",), [[((one.method,), one.metrics) for one in group]])


def make_categories_table(group: Sequence[Scores]) -> ScoresTable | None:
    """Return a table with one row a category and method, or None without categories.

    A method without the category keeps its row, whose cells have the reason.
    """
    found = [item for one in group for item in one.categories.items()]
    # the columns of the files that have categories: not every metric is computed by category
    metrics = {name: metric for _, category in found for name, metric in category.metrics.items()}
    blocks = [[_make_category_row(name, one, metrics) for one in group] for name in dict(found)]
    return make_table(("category", "method", "images"), blocks) if blocks else None


def _make_category_row(name: str, scores: Scores, metrics: Mapping[str, Metric]) -> LabelledMetrics:
    if name in scores.categories:
        category = scores.categories[name]
        return (name, scores.method, f"{category.count:,}"), category.metrics
    why, count = (NO_IMAGES, "0") if scores.categories else (NO_CATEGORIES, "unknown")
    missing = {
        key: dataclasses.replace(metric, value=None, interval=None, not_computed=why)
        for key, metric in metrics.items()
    }
    return (name, scores.method, count), missing


def make_table(heads: tuple[str, ...], blocks: Sequence[Sequence[LabelledMetrics]]) -> ScoresTable:
    """Return the table of rows in blocks; the best is marked within each block.

    A column takes its label, direction and scale from the first row that has the metric.
    """
    columns = _columns([metrics for block in blocks for _, metrics in block])
    rows = []
    for block in blocks:
        by_column = [_cells(column, [metrics for _, metrics in block]) for column in columns]
        for index, (labels, _) in enumerate(block):
            rows.append(Row(labels, tuple(cells[index] for cells in by_column)))
    return ScoresTable(heads, tuple(columns), tuple(rows))


def _columns(tables: Sequence[Mapping[str, Metric]]) -> list[Column]:
    first: dict[str, Metric] = {}
    for metrics in tables:
        for name, metric in metrics.items():
            first.setdefault(name, metric)
    columns = []
    for name, metric in first.items():
        raw = [table[name].raw for table in tables if name in table]
        values = [value * metric.scale for value in raw if value is not None]
        decimals = _decimals(values)
        columns.append(Column(name, metric.label, metric.better, metric.scale, decimals))
    return columns


def _decimals(values: Sequence[float]) -> int:
    """Return the decimals that show three or four digits of the column's largest number."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1:
        return 1 if largest >= 100 else 2
    # at least 4, as in papers for SSIM and LPIPS
    return 4 if largest == 0 else max(4, 2 - math.floor(math.log10(largest)))


def _cells(column: Column, tables: Sequence[Mapping[str, Metric]]) -> list[Cell]:
    found = [
        _cell(column, table[column.name]) if column.name in table else None for table in tables
    ]
    cells = [Cell(None, "", why=ABSENT) if cell is None else cell for cell in found]
    # compared as shown: values that print the same must not differ in bold
    shown = [float(cell.text) for cell in cells if cell.value is not None]
    # a single value is not the best of anything
    if len(shown) < 2:
        return cells
    best = max(shown) if column.better == "higher" else min(shown)
    return [
        Cell(c.value, c.text, c.interval, c.interval_text, best=True)
        if c.value is not None and float(c.text) == best
        else c
        for c in cells
    ]


def _cell(column: Column, metric: Metric) -> Cell:
    if metric.raw is None:
        return Cell(None, "", why=metric.not_computed or "no reason given")
    # two files may print one metric in different scales (KID raw or x1000)
    value, factor = metric.raw * column.scale, column.scale / metric.scale
    if metric.interval is None:
        return Cell(value, column.format_value(value))
    low, high = (bound * factor for bound in metric.interval)
    text = f"[{column.format_value(low)}, {column.format_value(high)}]"
    return Cell(value, column.format_value(value), (low, high), text)
