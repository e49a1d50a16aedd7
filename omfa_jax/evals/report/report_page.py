"""The report page of several scores files: tables, warnings, examples and the judge's prompts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.report.example_gallery import (
    ExampleImages,
    GallerySettings,
    choose_examples,
    choose_metrics,
    make_figures,
)
from omfa_jax.evals.report.html_page import HtmlPage, TableCell, format_count
from omfa_jax.evals.report.report_sections import (
    add_influence,
    add_judge,
    add_protocol,
    add_truth,
    format_group,
)
from omfa_jax.evals.report.scores_table import (
    ScoresTable,
    group_scores,
    make_categories_table,
    make_methods_table,
)
from omfa_jax.evals.score_comparison import compare_scores
from omfa_jax.evals.scores_file import Scores

KINDS = {"worst": "Worst", "best": "Best", "differ": "Largest difference between methods"}
SETTINGS = {
    "paired": "paired (the person's own garment)",
    "unpaired": "unpaired (another garment)",
    "multi_pose": "another pose",
    "try_off": "try-off (the garment alone)",
}


def build_report_page(
    scores: Sequence[Scores], *, beside: Sequence[AnyPath], examples: GallerySettings
) -> HtmlPage:
    """Return the page of `omfa eval report`; raises the OmfaErrors of `add_report_sections`."""
    groups = group_scores(scores)
    methods = list(dict.fromkeys(one.method for one in scores))
    kinds = [
        f"{group[0].protocol.name}, {SETTINGS[group[0].protocol.setting]}: {_format_counts(group)}"
        for group in groups
    ]
    page = HtmlPage(
        " vs ".join(methods) if len(methods) < 4 else f"{len(methods)} methods compared",
        f"Protocol {'; '.join(kinds)}. Scored on {_days(scores)}."
        + (" Numbers of different tables are not comparable." if len(groups) > 1 else ""),
    )
    add_report_sections(page, scores, beside=beside, examples=examples)
    return page


def add_report_sections(
    page: HtmlPage,
    scores: Sequence[Scores],
    *,
    beside: Sequence[AnyPath] | None = None,
    examples: GallerySettings | None = None,
) -> None:
    """Add every section that the scores files have to a page (the report's or the demo's).

    `beside` are the folders of the scores files, for their relative paths (default: the working
    directory). Raises OmfaError for two files of one method, for files without a metric in common,
    and for an example metric that no image has.
    """
    examples = examples or GallerySettings()
    groups = group_scores(scores)
    places = dict(zip(map(_key, scores), beside or [Path()] * len(scores), strict=True))
    # before anything is added, so that an unknown metric leaves no partial page
    chosen = choose_metrics(groups, examples.metrics)
    page.add_warnings("Read with care", collect_warnings(scores))
    for group in groups:
        page.add_heading("Scores" if len(groups) == 1 else f"Scores: {format_group(group)}")
        _table(page, make_methods_table(group))
        _intervals(page, group)
    add_influence(page, scores)
    add_truth(page, scores)
    for group in groups:
        table = make_categories_table(group)
        if table:
            page.add_heading(
                "By category" if len(groups) == 1 else f"By category: {format_group(group)}"
            )
            _table(page, table)
    for group, metrics in zip(groups, chosen, strict=True):
        _examples(page, group, metrics, places, examples)
    without = [
        format_group(group) for group, metrics in zip(groups, chosen, strict=True) if not metrics
    ]
    if without and any(chosen) and examples.count:
        wanted = " or ".join(examples.metrics) or "any metric"
        page.add_note(f"No examples for {'; '.join(without)}: no values of {wanted} per image.")
    add_judge(page, scores)
    add_protocol(page, groups)


def collect_warnings(scores: Sequence[Scores]) -> list[str]:
    """Return why scores in one table may not be comparable, or why a file may not be complete.

    Files of different protocols or settings are in different tables and not compared.
    """
    groups = group_scores(scores)
    lines = []
    for group in groups:
        where = f"{format_group(group)}: " if len(groups) > 1 else ""
        lines += [where + line for line in (*compare_scores(*group), *_find_gaps(group))]
    return lines


def _find_gaps(group: Sequence[Scores]) -> list[str]:
    """Return what predictions are missing, and what the judges left out or differ in."""
    lines = []
    for one in group:
        counts, judge = one.counts, one.judge
        if counts.missing:
            names = ", ".join(counts.missing[:3]) + (", ..." if len(counts.missing) > 3 else "")
            lines.append(
                f"{one.method}: {format_count(len(counts.missing), 'prediction')} missing ({names})"
            )
        if judge and (judge.get("stopped") or judge.get("failures")):
            why = judge.get("stopped") or format_count(len(judge["failures"]), "failure")
            lines.append(f"{one.method}: the judge did not score every image: {why}")
    models = sorted({str(one.judge.get("model")) for one in group if one.judge})
    if len(models) > 1:
        lines.append(f"the judges differ: {', '.join(models)}")
    if len({one.judge["prompt"] for one in group if one.judge and "prompt" in one.judge}) > 1:
        lines.append("the judges had different prompts")
    return lines


def _key(scores: Scores) -> tuple[str, str, str]:
    """Return the key of a file, which is unique in a report (`group_scores` checks it)."""
    return scores.protocol.name, scores.protocol.setting, scores.method


def _days(scores: Sequence[Scores]) -> str:
    first, last = (pick(one.created for one in scores)[:10] for pick in (min, max))
    return first if first == last else f"{first} to {last}"


def _format_counts(group: Sequence[Scores]) -> str:
    pairs = sorted({one.counts.pairs for one in group})
    return " or ".join(format_count(count, "image") for count in pairs)


def _table(page: HtmlPage, table: ScoresTable) -> None:
    """Add a table of scores; a missing value refers to its reason in a note below."""
    heads = [TableCell(head) for head in table.heads]
    for column in table.columns:
        arrow = "\N{UPWARDS ARROW}" if column.better == "higher" else "\N{DOWNWARDS ARROW}"
        factor = column.factor.replace("x", " \N{MULTIPLICATION SIGN}")
        label = f"{column.label}{factor} {arrow}"
        heads.append(TableCell(label, f"{column.better} is better", number=True))
    reasons: dict[str, list[str]] = {}
    rows = []
    first_rows = set()
    block = ""
    for index, row in enumerate(table.rows):
        # a category is written once and greyed out in its other rows
        again, block = row.labels[0] == block, row.labels[0]
        if len(table.heads) > 1 and not again:
            first_rows.add(index)
        cells = [TableCell(block, again=again), *map(TableCell, row.labels[1:])]
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell.value is None:
                labels = reasons.setdefault(cell.why, [])
                if column.label not in labels:
                    labels.append(column.label)
                mark = list(reasons).index(cell.why) + 1
                cells.append(TableCell("not computed", number=True, footnote=mark))
            else:
                cells.append(TableCell(cell.text, cell.interval_text, number=True, best=cell.best))
        rows.append(cells)
    page.add_rich_table(heads, rows, first_rows)
    for number, (why, labels) in enumerate(reasons.items(), start=1):
        page.add_note(f"{number}. {', '.join(labels)}: {why}")


def _intervals(page: HtmlPage, group: Sequence[Scores]) -> None:
    kinds: dict[str, list[str]] = {}
    for one in group:
        for metric in one.metrics.values():
            if metric.interval and metric.interval_kind:
                labels = kinds.setdefault(metric.interval_kind, [])
                if metric.label not in labels:
                    labels.append(metric.label)
    text = "; ".join(f"{kind} ({', '.join(labels)})" for kind, labels in kinds.items())
    # a single method is the best of nothing
    best = (
        "Bold: best of the column, including ties at the digits shown. " if len(group) > 1 else ""
    )
    if best or text:
        page.add_note(best + (f"In brackets: {text}." if text else ""))


def _examples(
    page: HtmlPage,
    group: Sequence[Scores],
    metrics: Sequence[str],
    places: Mapping[tuple[str, str, str], AnyPath],
    settings: GallerySettings,
) -> None:
    if not metrics or settings.count == 0:
        return
    pictures = [ExampleImages(one, places[_key(one)], settings.height_px) for one in group]
    for metric in metrics:
        # not every method has been scored with the metric
        label = next(one.metrics[metric].label for one in group if metric in one.metrics)
        page.add_heading(f"Examples by {label} ({group[0].protocol.setting})")
        # reading the images finds the warnings, which are shown above them
        spot = len(page.parts)
        if len(group) > 1:
            page.add_note(f"Ranked by the mean of {label} over the methods.")
        examples = choose_examples(group, metric, settings.count)
        if not examples:
            page.add_text("No image has a value from every method.")
        for kind, title in KINDS.items():
            some = [example for example in examples if example.kind == kind]
            if some:
                page.add_subheading(title)
            for example in some:
                page.add_figures(example.name, make_figures(example, metric, group, pictures))
        notes = list(dict.fromkeys(note for one in pictures for note in one.notes))
        page.parts[spot:spot] = _notes(notes)


def _notes(notes: Iterable[str]) -> list[str]:
    scratch = HtmlPage("", "")
    scratch.add_warnings("Some images cannot be shown", list(notes))
    return scratch.parts
