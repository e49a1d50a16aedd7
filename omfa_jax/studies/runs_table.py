"""Reading tables of finished runs: CSV, TSV or JSON lines, with numbers such as 70B."""

import csv
import dataclasses
import logging
import os
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath

log = logging.getLogger(__name__)

# accepted column names, in lower case with "_" for everything but letters and digits
COLUMN_NAMES = {
    "params": "params parameters n_params num_params model_params model_size param_count size n",
    "samples": "samples tokens n_samples num_samples samples_seen examples images training_samples"
    " n_tokens num_tokens training_tokens train_tokens tokens_seen d",
    "loss": "loss val_loss validation_loss eval_loss test_loss final_loss l",
    "flops": "flops flop training_flops training_flop train_flops total_flops n_flops compute c",
    "unique": "unique unique_samples unique_tokens unique_data unique_examples unique_images",
}
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmbgt]?)", re.IGNORECASE)
# a comma in any other place may be a decimal comma
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(?![\d,])")
MISSING = {"", "-", "na", "n/a", "none", "null", "nan"}


@dataclass(frozen=True)
class ExcludedRun:
    """An excluded run: its line in the file (1 is the header of a CSV) and the reason."""

    line: int
    reason: str


@dataclass(frozen=True)
class Runs:
    """Finished runs: parameters, samples or tokens seen, loss, FLOPs and distinct samples.

    `unique` is nan if unknown; `line` is each run's line in the file.
    """

    params: Float[np.ndarray, "n"]
    samples: Float[np.ndarray, "n"]
    loss: Float[np.ndarray, "n"]
    flops: Float[np.ndarray, "n"]
    unique: Float[np.ndarray, "n"]
    line: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.params)

    def take(self, kept: Bool[np.ndarray, "n"] | Int[np.ndarray, "m"]) -> "Runs":
        """Return the runs that a mask or indices select."""
        fields = (field.name for field in dataclasses.fields(self))
        return Runs(**{name: getattr(self, name)[kept] for name in fields})

    @property
    def epochs(self) -> Float[np.ndarray, "n"]:
        """The number of times that each run saw a sample; 1 if unknown."""
        known = np.where(np.isfinite(self.unique), self.unique, self.samples)
        return np.maximum(self.samples / known, 1.0)


@dataclass(frozen=True)
class RunsTable:
    """The content of a table: its runs, the unreadable lines, and the columns that were used."""

    runs: Runs
    excluded: tuple[ExcludedRun, ...]
    columns: dict[str, str]
    flops_rule: str


def parse_number(text: object, what: str = "number") -> float:
    """Parse a number that may have a unit suffix (k, M, B or G, T); nan for a missing one.

    Raises ValueError for anything else.
    """
    plain = str("" if text is None else text).strip().replace("_", "")
    # 1,234,567 is unambiguous; 1,5 is not and is refused below
    if THOUSANDS.match(plain):
        plain = plain.replace(",", "")
    if plain.lower() in MISSING:
        return float("nan")
    if plain.lower().lstrip("+-") in {"inf", "infinity"}:
        return float("inf")
    match = NUMBER.fullmatch(plain)
    if match is None:
        raise ValueError(f"{what} {plain!r} is not a number")
    return float(match[1]) * SUFFIXES[match[2].lower()]


def read_runs_table(
    path: str | os.PathLike,
    *,
    columns: dict[str, str] | None = None,
    flops_per_param_sample: float | None = None,
) -> RunsTable:
    """Read a table; `columns` maps keys of COLUMN_NAMES to its column names (default: guessed).

    A missing FLOPs column is computed as flops_per_param_sample * params * samples, a missing
    samples column as flops / (flops_per_param_sample * params); the factor defaults to 6, that of a
    transformer's tokens. Lines with unreadable numbers are listed in `excluded`.
    """
    path = require_any_file(path, "the table of runs", "--table")
    header, rows = read_rows(path)
    if not rows:
        raise OmfaError(f"{path}: expected a header and a line for each run, found no runs")
    found = find_columns(header, columns or {}, path)
    values: dict[str, list[float]] = {name: [] for name in COLUMN_NAMES}
    lines, excluded = [], []
    for line, row in rows:
        beyond = row.pop(None, None)
        # an unquoted comma in a number shifts all cells behind it
        if beyond and any(beyond):
            cells = f"{len(header) + len(beyond)} cells under a header of {len(header)}"
            excluded.append(ExcludedRun(line, cells))
            continue
        try:
            # `get`, because a short line lacks its last keys
            cells = {
                name: parse_number(row.get(found[name]), found[name])
                if name in found
                else float("nan")
                for name in COLUMN_NAMES
            }
        except ValueError as error:
            excluded.append(ExcludedRun(line, str(error)))
            continue
        lines.append(line)
        for name, value in cells.items():
            values[name].append(value)
    arrays = {name: np.array(column, dtype=float) for name, column in values.items()}
    factor = 6.0 if flops_per_param_sample is None else flops_per_param_sample
    if not (np.isfinite(factor) and factor > 0):
        raise OmfaError(f"--flops-per-param-sample must be above 0, got {factor:g}")
    if "samples" not in found:
        arrays["samples"] = arrays["flops"] / (factor * arrays["params"])
        rule = f"samples = flops / ({factor:g} params)"
    elif "flops" not in found or flops_per_param_sample is not None:
        arrays["flops"] = factor * arrays["params"] * arrays["samples"]
        rule = f"flops = {factor:g} params samples"
    else:
        rule = f"flops from column {found['flops']!r}"
    runs = Runs(**arrays, line=np.array(lines, dtype=int))
    return RunsTable(runs, tuple(excluded), found, rule)


def read_rows(path: AnyPath) -> tuple[list[str], list[tuple[int, dict]]]:
    """Return the column names, and (line number, row) for each non-blank line.

    Cells beyond the header are under the key None.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise OmfaError(
            f"{path}: expected a text table (CSV, TSV, JSON lines); change --table"
        ) from None
    lines = text.splitlines()
    if path.suffix.lower() in {".jsonl", ".ndjson", ".json"}:
        rows = []
        for at, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            if row is None and at == len(lines) and rows and not text.endswith("\n"):
                log.warning("%s: skipped its truncated last line (line %d)", path, at)
                continue
            if not isinstance(row, dict):
                raise OmfaError(f"{path}, line {at}: expected one JSON object per line")
            rows.append((at, row))
        # a key that only some runs have is a column too
        names = dict.fromkeys(name for _, row in rows for name in row)
        return list(names), [(at, {name: row.get(name) for name in names}) for at, row in rows]
    if not lines:
        return [], []
    # the header decides: numbers may contain commas
    delimiter = max(",\t;", key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = [
        (reader.line_num, row)
        for row in reader
        if any(cell for key, cell in row.items() if key is not None)
    ]
    return list(reader.fieldnames or ()), rows


def normalize_name(name: object) -> str:
    """Return a column name in lower case, with "_" for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def find_columns(header: list[str], given: dict[str, str], path: AnyPath) -> dict[str, str]:
    """Return the column of the header for each key of COLUMN_NAMES that it has."""
    found = {}
    for what, names in COLUMN_NAMES.items():
        if header.count(given.get(what, "")) > 1:
            raise OmfaError(
                f"{path}: there are several columns {given[what]!r}: rename all but one"
            )
        if what in given:
            if given[what] not in header:
                error = make_unknown_name_error("column", given[what], header)
                raise OmfaError(f"{path}: --{what}-column: {error}")
            found[what] = given[what]
            continue
        near = [name for name in header if normalize_name(name) in names.split()]
        if len(near) > 1:
            raise OmfaError(
                f"{path}: columns {', '.join(map(repr, near))} may all hold the {what}:"
                f" choose one with --{what}-column"
            )
        if near:
            found[what] = near[0]
    missing = [what for what in ("params", "loss") if what not in found]
    if "samples" not in found and "flops" not in found:
        missing.append("samples")
    if missing:
        raise OmfaError(
            f"{path}: no column for {', '.join(missing)} among {', '.join(map(repr, header))}:"
            f" name it with --{missing[0]}-column"
        )
    return found
