"""The report's parts that not every scores file has: influence, truth, judge, and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from omfa_jax.evals.page import Page, counted
from omfa_jax.evals.scores import Scores


def kind_of(group: Sequence[Scores]) -> str:
    """Return what a group of files has in common: protocol and setting."""
    return f"{group[0].protocol.name}, {group[0].protocol.setting}"


def add_influence(page: Page, scores: Sequence[Scores]) -> None:
    """Add what each condition is worth, of those files that say so."""
    keys = ("metric", "region", "right", "wrong", "gain", "interval", "count")
    rows = []
    for one in scores:
        for name, figures in (one.influence or {}).items():
            known = {**dict.fromkeys(keys, ""), **(figures if isinstance(figures, Mapping) else {})}
            if known["interval"]:
                low, high = known["interval"]
                known["interval"] = f"[{low:.3g}, {high:.3g}]"
            rows.append((one.method, name, *(known[key] for key in keys)))
    if rows:
        page.heading("Does every condition count?")
        page.text(
            "Scores with the right condition, and with another example's in its place. A method"
            " that ignores a condition gains nothing from it."
        )
        page.table(("method", "condition", *keys), rows)


def add_truth(page: Page, scores: Sequence[Scores]) -> None:
    """Add the scores against exact truth, of those files that have it."""
    found = [
        (one.method, kind, figures if isinstance(figures, Mapping) else {"value": figures})
        for one in scores
        for kind, figures in (one.truth or {}).items()
    ]
    if not found:
        return
    page.heading("Against exact truth")
    page.text(
        "Only a synthetic world has it: how the other garment, or the new pose, really looks."
    )
    keys = list(dict.fromkeys(key for _, _, figures in found for key in figures))
    rows = [
        (method, kind.replace("_", " "), *({**dict.fromkeys(keys, ""), **figures}[k] for k in keys))
        for method, kind, figures in found
    ]
    page.table(("method", "truth", *(key.replace("_", " ") for key in keys)), rows)


def add_judge(page: Page, scores: Sequence[Scores]) -> None:
    """Add what the judges are, what they cost and were asked, and where they failed."""
    judged = [(one, one.judge) for one in scores if one.judge]
    if not judged:
        return
    page.heading("The judge")
    page.text(
        "A vision-language model scored every picture from 0 to 10. The prompt is this library's"
        " own: scores from other prompts or models do not compare with these."
    )
    keys = ("model", "scored", "not_asked", "requests", "cost_usd", "cost_cap_usd")
    head = ("method", "setting", *(key.replace("_", " ").replace("usd", "(USD)") for key in keys))
    rows = []
    for one, block in judged:
        known = {**dict.fromkeys(keys, ""), "failures": [], **block}
        figures = [known[key] for key in keys]
        rows.append((one.method, one.protocol.setting, *figures, len(known["failures"])))
    page.table((*head, "failed"), rows)
    for one, block in judged:
        failures = list(map(str, block.get("failures") or []))
        if failures:
            more = [f"... and {len(failures) - 20} more"] if len(failures) > 20 else []
            title = f"{one.method}: {counted(len(failures), 'picture')} without a score"
            page.folded(title, [*failures[:20], *more])
    prompts = dict.fromkeys(str(block.get("prompt")) for _, block in judged)
    for number, prompt in enumerate(prompts, start=1):
        page.subheading("The prompt" if len(prompts) == 1 else f"Prompt {number}")
        page.prose(prompt)


def add_protocol(page: Page, groups: Sequence[Sequence[Scores]]) -> None:
    """Add the protocol's choices, and the seed, versions and weights of each file."""
    page.heading("How it was measured")
    for group in groups:
        if len(groups) > 1:
            page.subheading(kind_of(group))
        page.table(("choice", "value"), list(_choices(group[0].protocol.choices).items()))
    rows = [
        (
            one.method,
            one.protocol.setting,
            one.created[:16].replace("T", " "),
            str(one.seed),
            _counted(one),
            ", ".join(f"{name} {version}" for name, version in one.versions.items()),
            ", ".join(f"{n}: {w.file} {w.sha256[:12]}" for n, w in one.weights.items()),
        )
        for group in groups
        for one in group
    ]
    page.table(
        ("method", "setting", "created (UTC)", "seed", "scored", "versions", "weights"), rows
    )


def _choices(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return one line a metric: "ssim.size" and "ssim.filter" are of one."""
    lines: dict[str, list[str]] = {}
    for name, value in choices.items():
        of, _, choice = name.partition(".")
        said = f"{choice.replace('_', ' ')} {_plain(value)}" if choice else _plain(value)
        lines.setdefault(of, []).append(said)
    return {of.replace("_", " "): "; ".join(said) for of, said in lines.items()}


def _counted(scores: Scores) -> str:
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
