"""Score tables as LaTeX (booktabs) and as CSV."""

import csv
import io
import re
from collections.abc import Sequence

from omfa_jax.evals.report.scores_table import Cell, Column, make_methods_table
from omfa_jax.evals.scores_file import Scores

ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Return the text escaped for LaTeX's text mode, on one line."""
    return "".join(ESCAPES.get(sign, sign) for sign in " ".join(text.split()))


def format_latex(groups: Sequence[Sequence[Scores]]) -> str:
    r"""Return one tabular a group; needs \usepackage{booktabs}."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_tabular, groups))


def _tabular(group: Sequence[Scores]) -> str:
    table, protocol = make_methods_table(group), group[0].protocol
    heads = [_head(column) for column in table.columns]
    lines = [
        f"% {_comment(protocol.name)}, {_comment(protocol.setting)};"
        " intervals below the values, best in bold",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["Method", *heads]) + r" \\",
        r"\midrule",
    ]
    whys = []
    for row in table.rows:
        lines.append(" & ".join([escape_latex(row.labels[0]), *map(_value, row.cells)]) + r" \\")
        if any(cell.interval_text for cell in row.cells):
            # braces keep \\ from taking a following [ for an argument
            lines.append(" & ".join(["", *map(_interval, row.cells)]) + r" \\")
        whys += [
            f"% {_comment(row.labels[0])}, {_comment(column.label)}: {_comment(cell.why)}"
            for column, cell in zip(table.columns, row.cells, strict=True)
            if cell.why
        ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *whys]) + "\n"


def _head(column: Column) -> str:
    arrow = r"$\uparrow$" if column.better == "higher" else r"$\downarrow$"
    factor = rf" $\times {column.scale:g}$" if column.factor else ""
    return f"{escape_latex(column.label)}{factor} {arrow}"


def _value(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    # in text mode LaTeX would print a hyphen for the minus sign
    number = f"${cell.text}$" if cell.text.startswith("-") else cell.text
    return rf"\textbf{{{number}}}" if cell.best else number


def _interval(cell: Cell) -> str:
    return rf"{{\scriptsize {cell.interval_text}}}" if cell.interval_text else ""


# a line break in a reason would end LaTeX's comment
def _comment(text: str) -> str:
    return " ".join(text.split())


def format_csv(groups: Sequence[Sequence[Scores]]) -> str:
    """Return one row a scores file, with value, interval and "not computed" reason of each metric.

    Numbers keep the full precision and the scale of the scores files; a scale other than 1 is part
    of the column's name (kid_x1000). Missing numbers are empty fields.
    """
    tables = [make_methods_table(group) for group in groups]
    # groups may have different metrics: the columns are their union
    columns = {_field(column): column for table in tables for column in table.columns}
    parts = ("", "_low", "_high", "_not_computed")
    lead = ("method", "protocol", "setting", "pairs", "scored")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*lead, *(name + part for name in columns for part in parts)])
    for group, table in zip(groups, tables, strict=True):
        names = [_field(column) for column in table.columns]
        for scores, row in zip(group, table.rows, strict=True):
            cells = dict(zip(names, row.cells, strict=True))
            fields: list[object] = [
                scores.method,
                scores.protocol.name,
                scores.protocol.setting,
                scores.counts.pairs,
                scores.counts.scored,
            ]
            for name in columns:
                fields += _fields(cells[name]) if name in cells else ["", "", "", ""]
            writer.writerow(fields)
    return text.getvalue()


def _field(column: Column) -> str:
    name = re.sub(r"\s+", "_", column.name)
    return name if column.scale == 1 else f"{name}_x{column.scale:g}"


def _fields(cell: Cell) -> list[object]:
    if cell.value is None:
        return ["", "", "", cell.why]
    return [
        # repr is the shortest text that reads back as the same float
        repr(cell.value),
        *map(repr, cell.interval or ()),
        *([] if cell.interval else ["", ""]),
        "",
    ]
