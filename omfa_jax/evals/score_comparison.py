"""Why the scores of several methods are not comparable: one line for each difference."""

from collections.abc import Mapping, Sequence
from typing import Any

from omfa_jax.evals.scores_file import Scores

ABSENT = "absent"
# more differing choices than this are one line: they have one cause, such as another version
MAX_CHOICE_LINES = 4
# more methods with one value are counted: the odd one out is what matters
MAX_NAMED_METHODS = 3


def compare_scores(*files: Scores) -> list[str]:
    """Return one line for each reason why the files are not comparable; [] if none.

    A line names every value and the methods that have it, or their number. The choices, libraries
    and weights of a metric that only some of the files have are left out: the tables say that it is
    missing.
    """
    metrics = [_computed(one) for one in files]
    alike = all(one == metrics[0] for one in metrics)
    known = {name for one in files for name in one.metrics}
    choices = [
        # choices of a metric start with its name
        {
            key: value
            for key, value in one.protocol.choices.items()
            if (name := key.partition(".")[0]) not in known or all(name in has for has in metrics)
        }
        for one in files
    ]
    lines = [
        *_differ("protocol", [one.protocol.name for one in files], files),
        *_differ("setting", [one.protocol.setting for one in files], files),
    ]
    lines += _shorten(_differ_by_key("choice", choices, files, needs_all=False))
    # without one of the metrics, its library and weights are not used either
    for what, tables in (
        ("version of", [one.versions for one in files]),
        ("SHA-256 of weights", [_checksums(one) for one in files]),
    ):
        lines += _differ_by_key(what, tables, files, needs_all=not alike)
    lines += _differ_by_key("scale of", [_scales(one) for one in files], files, needs_all=True)
    lines += [
        *_differ("seed", [one.seed for one in files], files),
        *_differ("number of pairs", [one.counts.pairs for one in files], files),
        *_differ("number of scored images", [one.counts.scored for one in files], files),
        *_differ(
            "file format of the predictions",
            [", ".join(sorted(one.counts.formats)) or "unknown" for one in files],
            files,
        ),
    ]
    named = [set(one.per_image.names) for one in files]
    if some := set.union(*named) - set.intersection(*named):
        lines.append(f"scored images differ: {len(some)} names are not in every file")
    # files of other programs may not have the digest
    if len({one.folders.gt_sha256 for one in files} - {None}) > 1:
        lines.append("ground truth differs: names or contents of the images are not the same")
    return lines + [
        f"{one.method} is not complete: its run had not finished"
        for one in files
        if not one.complete
    ]


def _differ(what: str, values: Sequence[object], files: Sequence[Scores]) -> list[str]:
    """Return a line with each value and its methods, if the values are not all equal."""
    methods: dict[str, list[str]] = {}
    for value, one in zip(values, files, strict=True):
        methods.setdefault(str(value), []).append(one.method)
    if len(methods) < 2:
        return []
    parts = ", ".join(f"{value} ({_name(names)})" for value, names in methods.items())
    return [f"{what} differs: {parts}"]


def _name(methods: Sequence[str]) -> str:
    if len(methods) > MAX_NAMED_METHODS:
        return f"{len(methods)} methods"
    return ", ".join(methods)


def _differ_by_key(
    what: str, tables: Sequence[Mapping[str, Any]], files: Sequence[Scores], *, needs_all: bool
) -> list[str]:
    """Return the lines of every key; `needs_all` leaves out keys that some tables lack."""
    keys = sorted(set().union(*tables))
    if needs_all:
        keys = [key for key in keys if all(key in table for table in tables)]
    return [
        line
        for key in keys
        for line in _differ(f"{what} {key}", [table.get(key, ABSENT) for table in tables], files)
    ]


def _shorten(lines: list[str]) -> list[str]:
    if len(lines) <= MAX_CHOICE_LINES:
        return lines
    names = ", ".join(line.removeprefix("choice ").partition(" differs:")[0] for line in lines)
    return [f"{len(lines)} choices of the protocol differ: {names}"]


def _computed(scores: Scores) -> set[str]:
    return {name for name, metric in scores.metrics.items() if metric.value is not None}


def _checksums(scores: Scores) -> dict[str, str]:
    # the first digits are enough to tell two files apart by eye
    return {name: weights.sha256[:12] for name, weights in scores.weights.items()}


def _scales(scores: Scores) -> dict[str, float]:
    return {name: metric.scale for name, metric in scores.metrics.items()}
