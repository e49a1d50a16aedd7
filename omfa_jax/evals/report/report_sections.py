"""The optional sections of the report: influence, exact truth and judge; and the provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from omfa_jax.evals.report.html_page import HtmlPage, format_count
from omfa_jax.evals.scores_file import Scores


def format_group(group: Sequence[Scores]) -> str:
    """Return the protocol and setting that a group of files has in common."""
    return f"{group[0].protocol.name}, {group[0].protocol.setting}"


def add_influence(page: HtmlPage, scores: Sequence[Scores]) -> None:
    """Add the influence of each condition, for the files that have it."""
    keys = ("metric", "region", "right", "wrong", "gain", "interval", "count")
    rows = []
    for one in scores:
        for name, figures in (one.influence or {}).items():
            # files of other programs may lack some of the keys
            known = {**dict.fromkeys(keys, ""), **(figures if isinstance(figures, Mapping) else {})}
            if known["interval"]:
                low, high = known["interval"]
                known["interval"] = f"[{low:.3g}, {high:.3g}]"
            rows.append((one.method, one.protocol.setting, name, *(known[key] for key in keys)))
    if rows:
        page.add_heading("Influence of the conditions")
        page.add_text(
            "Scores with the right condition, and with another example's in its place. A method"
            " that ignores a condition gains nothing from it."
        )
        page.add_table(("method", "setting", "condition", *keys), rows)


def add_truth(page: HtmlPage, scores: Sequence[Scores]) -> None:
    """Add the scores against exact truth, for the files that have them."""
    found = [
        (one, kind, figures if isinstance(figures, Mapping) else {"value": figures})
        for one in scores
        for kind, figures in (one.truth or {}).items()
    ]
    if not found:
        return
    page.add_heading("Against exact truth")
    page.add_text(
        "Synthetic data only: the exact image of the person with the other garment, or in the new"
        " pose."
    )
    # every key of any file, in the order of their first use: methods may have different metrics
    keys = list(dict.fromkeys(key for _, _, figures in found for key in figures))
    rows = [
        (
            one.method,
            one.protocol.setting,
            kind.replace("_", " "),
            *({**dict.fromkeys(keys, ""), **figures}[key] for key in keys),
        )
        for one, kind, figures in found
    ]
    page.add_table(("method", "setting", "truth", *(key.replace("_", " ") for key in keys)), rows)


def add_judge(page: HtmlPage, scores: Sequence[Scores]) -> None:
    """Add each judge's model, cost, failures and prompt."""
    judged = [(one, one.judge) for one in scores if one.judge]
    if not judged:
        return
    page.add_heading("The judge")
    page.add_text(
        "A vision-language model scored every image from 0 to 10. The prompt is this library's"
        " own: scores from other prompts or models are not comparable."
    )
    keys = ("model", "scored", "not_asked", "requests", "cost_usd", "cost_cap_usd")
    head = ("method", "setting", *(key.replace("_", " ").replace("usd", "(USD)") for key in keys))
    rows = []
    for one, block in judged:
        known = {**dict.fromkeys(keys, ""), "failures": [], **block}
        figures = [known[key] for key in keys]
        rows.append((one.method, one.protocol.setting, *figures, len(known["failures"])))
    page.add_table((*head, "failed"), rows)
    for one, block in judged:
        failures = list(map(str, block.get("failures") or []))
        if failures:
            # a server that is down fails thousands of images with the same line
            more = [f"... and {len(failures) - 20} more"] if len(failures) > 20 else []
            title = f"{one.method}: {format_count(len(failures), 'image')} without a score"
            page.add_details(title, [*failures[:20], *more])
    # each prompt once, in full: scores of other prompts are not comparable
    prompts = dict.fromkeys(str(block.get("prompt")) for _, block in judged)
    for number, prompt in enumerate(prompts, start=1):
        page.add_subheading("The prompt" if len(prompts) == 1 else f"Prompt {number}")
        page.add_preformatted(prompt)


def add_protocol(page: HtmlPage, groups: Sequence[Sequence[Scores]]) -> None:
    """Add the protocol's choices, and the seed, versions and weights of each file."""
    page.add_heading("How it was measured")
    for group in groups:
        if len(groups) > 1:
            page.add_subheading(format_group(group))
        page.add_table(("choice", "value"), list(_choices(_join_choices(group)).items()))
    rows = [
        (
            one.method,
            one.protocol.setting,
            one.created[:16].replace("T", " "),
            str(one.seed),
            _format_counts(one),
            ", ".join(f"{name} {version}" for name, version in one.versions.items()),
            ", ".join(f"{n}: {w.file} {w.sha256[:12]}" for n, w in one.weights.items()),
        )
        for group in groups
        for one in group
    ]
    page.add_table(
        ("method", "setting", "created (UTC)", "seed", "scored", "versions", "weights"), rows
    )


def _join_choices(group: Sequence[Scores]) -> dict[str, Any]:
    """Return the choices of every file; where they differ, each value with its methods."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in group for name in one.protocol.choices):
        methods: dict[str, list[str]] = {}
        for one in group:
            # absent with a metric that the file does not have
            if name in one.protocol.choices:
                value = _plain(one.protocol.choices[name])
                methods.setdefault(value, []).append(one.method)
        parts = [f"{value} ({', '.join(names)})" for value, names in methods.items()]
        joined[name] = next(iter(methods)) if len(methods) == 1 else " or ".join(parts)
    return joined


def _choices(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return one line a metric: "ssim.size" and "ssim.filter" are joined."""
    lines: dict[str, list[str]] = {}
    for name, value in choices.items():
        metric, _, choice = name.partition(".")
        text = f"{choice.replace('_', ' ')} {_plain(value)}" if choice else _plain(value)
        lines.setdefault(metric, []).append(text)
    return {metric.replace("_", " "): "; ".join(texts) for metric, texts in lines.items()}


def _format_counts(scores: Scores) -> str:
    counts = scores.counts
    parts = [f"{counts.scored:,} of {counts.pairs:,}", *counts.formats]
    for what, number in (("resized", counts.resized), ("extra", len(counts.extra))):
        parts += [f"{number:,} {what}"] if number else []
    return ", ".join([*parts, *(f"{number:,} {what}" for what, number in counts.converted.items())])


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)
