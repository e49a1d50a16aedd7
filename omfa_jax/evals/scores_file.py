"""The scores file: the scores of one method under one protocol."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath

FORMAT = 1
# choices as older versions worded them -> as protocols word them now
REWORDED_CHOICES = {
    "each picture once": "each image once",
    "resized pictures are rounded": "resized images are rounded",
    "the mean over pictures": "the mean over images",
}
SETTINGS = ("paired", "unpaired", "multi_pose", "try_off")


@dataclass(frozen=True)
class Metric:
    """A metric's value, or None with the reason in `not_computed`.

    `value` and `interval` are already multiplied by the protocol's `scale`, ready to be shown;
    `raw` undoes that.
    """

    value: float | None
    better: str  # "higher" or "lower"
    label: str
    scale: float = 1
    interval: tuple[float, float] | None = None
    interval_kind: str | None = None
    not_computed: str | None = None

    @property
    def raw(self) -> float | None:
        """The value before the protocol's scale."""
        return None if self.value is None else self.value / self.scale


@dataclass(frozen=True)
class ProtocolRecord:
    """The protocol's name, the setting, and every choice as a flat, printable table."""

    name: str
    setting: str
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsFile:
    """The weights file of a network."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Folders:
    """The image folders, and a digest of the ground truth's names and contents."""

    pred: str
    gt: str
    garments: str | None = None
    pairs: str | None = None
    gt_sha256: str | None = None


@dataclass(frozen=True)
class Counts:
    """Numbers of expected and scored pairs, missing and extra predictions, resized predictions.

    `formats` counts the predictions by file format (JPEG compression changes the scores);
    `converted` counts the images that were not upright 8-bit RGB, by what they were.
    """

    pairs: int
    scored: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    resized: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Category:
    """The scores of one category."""

    count: int
    metrics: dict[str, Metric]


@dataclass(frozen=True)
class PerImage:
    """Values of each image, in the order of `names`; None where an image has no value.

    `categories` is empty if they are unknown. The judge's scores are in `values["judge"]`.
    """

    names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    values: dict[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The content of a scores file; use `dataclasses.replace` to add a block."""

    method: str
    created: str  # UTC, 2026-11-28T13:00:00Z
    protocol: ProtocolRecord
    versions: dict[str, str]
    weights: dict[str, WeightsFile]
    seed: int
    folders: Folders
    counts: Counts
    metrics: dict[str, Metric]
    categories: dict[str, Category] = field(default_factory=dict)
    per_image: PerImage = field(default_factory=PerImage)
    judge: dict[str, Any] | None = None
    influence: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None
    complete: bool = True


def write_scores(path: AnyPath, scores: Scores) -> None:
    """Write the file atomically; OmfaError for a value that is not finite."""
    validate_scores(scores, str(path))
    content = {"format": FORMAT, **dataclasses.asdict(scores)}
    try:
        # NaN is not JSON, and other readers would reject the file
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise OmfaError(f"{path}: scores must be finite numbers or null: {error}") from None
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")


def read_scores(path: str | os.PathLike) -> Scores:
    """Return a scores file's content; OmfaError if it is not a valid scores file."""
    path = require_any_file(path, "scores file", "the path of the scores file")
    try:
        content = parse_json(path.read_text(), parse_constant=_no_constant)
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise OmfaError(f"{path}: not a scores file (JSON expected): {error}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise OmfaError(f'{path}: not a scores file: it has no "format"; `omfa eval` writes them')
    # a newer file may have keys with another meaning
    if content.pop("format") != FORMAT:
        raise OmfaError(f"{path}: expected format {FORMAT}, found another; score the folder again")
    try:
        return validate_scores(_scores(content), str(path))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise OmfaError(f"{path}: not a complete scores file: {error}") from None


def validate_scores(scores: Scores, where: str) -> Scores:
    """Return the scores if they are consistent; else raise an OmfaError starting with `where`."""
    if scores.protocol.setting not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise OmfaError(f"{where}: setting {scores.protocol.setting!r} is not one of {known}")
    groups = [scores.metrics, *(category.metrics for category in scores.categories.values())]
    for name, metric in (item for group in groups for item in group.items()):
        if metric.better not in ("higher", "lower"):
            raise OmfaError(f"{where}: metric {name}: better must be higher or lower")
        # a table shows one or the other, and a gap without a reason would look like a fault
        if (metric.value is None) != (metric.not_computed is not None):
            raise OmfaError(f"{where}: metric {name} needs either a value or a reason")
        numbers = [metric.value, metric.scale, *(metric.interval or ())]
        if not all(number is None or _is_finite(number) for number in numbers):
            raise OmfaError(f"{where}: metric {name} is not finite")
    rows = scores.per_image
    columns = {**rows.values, **({"categories": rows.categories} if rows.categories else {})}
    for name, column in columns.items():
        if len(column) != len(rows.names):
            expected = f"expected {len(rows.names)}, one per name"
            raise OmfaError(f"{where}: per_image {name} has {len(column)} values, {expected}")
    for name, column in rows.values.items():
        if not all(value is None or _is_finite(value) for value in column):
            raise OmfaError(f"{where}: per_image {name} has a value that is not finite")
    return scores


def _is_finite(value: object) -> bool:
    # JSON's true would pass as the number 1
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _metrics(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    return {name: Metric(**_tuples(row, "interval")) for name, row in table.items()}


def _tuples(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the row with the JSON lists under `names` turned into tuples."""
    made = {name: tuple(row[name]) for name in names if row.get(name) is not None}
    return {**row, **made}


def _protocol(row: Mapping[str, Any]) -> ProtocolRecord:
    found = ProtocolRecord(**row)
    choices = dict(found.choices)
    for name in ("average", "deviations"):
        for old, new in REWORDED_CHOICES.items():
            if isinstance(choices.get(name), str):
                choices[name] = choices[name].replace(old, new)
    return dataclasses.replace(found, choices=choices)


def _scores(content: dict[str, Any]) -> Scores:
    """Return the dataclass of a decoded file; unknown keys raise a TypeError."""
    # JSON has no tuples, and equality of the dataclasses needs them
    rows = _tuples(content.get("per_image", {}), "names", "categories")
    values = {name: tuple(column) for name, column in rows.get("values", {}).items()}
    categories = {
        name: Category(row["count"], _metrics(row["metrics"]))
        for name, row in content.get("categories", {}).items()
    }
    made = {
        "protocol": _protocol(content["protocol"]),
        "weights": {name: WeightsFile(**row) for name, row in content["weights"].items()},
        "folders": Folders(**content["folders"]),
        "counts": Counts(**_tuples(content["counts"], "missing", "extra")),
        "metrics": _metrics(content["metrics"]),
        "categories": categories,
        "per_image": PerImage(**{**rows, "values": values}),
    }
    return Scores(**{**content, **made})
