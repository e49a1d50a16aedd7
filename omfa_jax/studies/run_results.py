"""The results of a study's runs: one result file a run, and the table for `omfa scaling fit`."""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath
from omfa_jax.studies.study_manifest import Study, StudyRun

RESULT = "result.json"
# instead of it: the permanent error that ended a run
FAILED = "failed.json"

RunState = Literal["finished", "failed", "begun", "planned"]


@dataclass(frozen=True)
class RunResult:
    """The losses of a finished run: `loss`, its parts loss/PART, and `standard_error`."""

    name: str
    step: int
    losses: dict[str, float]


def get_run_state(folder: AnyPath, run: StudyRun) -> RunState:
    """Return the state of a run; `begun` includes running, waiting and killed runs."""
    workdir = folder / run.workdir
    if (workdir / RESULT).is_file():
        return "finished"
    if (workdir / FAILED).is_file():
        return "failed"
    return "begun" if workdir.is_dir() else "planned"


def write_result(folder: AnyPath, run: StudyRun, losses: Mapping[str, float]) -> None:
    """Write a run's result, which marks the run as finished."""
    workdir = folder / run.workdir
    with atomic_write(workdir / RESULT) as temporary:
        result = RunResult(run.name, run.steps, dict(losses))
        temporary.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    clear_failure(folder, run)


def write_failure(folder: AnyPath, run: StudyRun, status: int, reason: str) -> None:
    """Write the reason of a failure; the run is not started again without --retry-failed."""
    with atomic_write(folder / run.workdir / FAILED) as temporary:
        temporary.write_text(json.dumps({"status": status, "reason": reason}, indent=2) + "\n")


def read_failure(folder: AnyPath, run: StudyRun) -> str:
    """Return the reason of a failed run."""
    path = folder / run.workdir / FAILED
    try:
        found = parse_json(path.read_text())
        return f"exit status {found['status']}: {found['reason']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"failed; {path} is damaged ({error})"


def clear_failure(folder: AnyPath, run: StudyRun) -> None:
    """Remove the failure of a run that is started again."""
    (folder / run.workdir / FAILED).unlink(missing_ok=True)


def read_result(folder: AnyPath, run: StudyRun) -> RunResult:
    """Return a finished run's result; OmfaError for that of another run or length."""
    path = folder / run.workdir / RESULT
    try:
        result = RunResult(**parse_json(path.read_text()))
        # a missing key or a value that is not a number is damage
        result.losses["loss"].__float__()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise OmfaError(f"{path} is damaged ({error}); remove it and run again") from None
    if (result.name, result.step) != (run.name, run.steps):
        raise OmfaError(
            f"{path} is the result of {result.name} after {result.step} steps, but the manifest"
            f" has {run.name} with {run.steps}; remove it and run again"
        )
    return result


def collect_rows(
    study: Study, folder: AnyPath, *, all_rates: bool = False
) -> list[dict[str, object]]:
    """Return one row for each finished run, in the manifest's order.

    Of runs that differ only in the learning rate, the one with the lowest finite loss is kept,
    unless `all_rates`.
    """
    found: dict[object, dict[str, object]] = {}
    best: dict[object, float] = {}
    for run in study.runs:
        if get_run_state(folder, run) != "finished":
            continue
        losses = read_result(folder, run).losses
        row: dict[str, object] = {
            "name": run.name,
            "preset": run.size,
            "params": run.params,
            "samples": run.samples,
            "flops": run.flops,
            "loss": losses["loss"],
            "unique_samples": run.unique,
            "epochs": run.epochs,
            "steps": run.steps,
            "batch_size": run.batch_size,
            "learning_rate": run.learning_rate,
        }
        row |= {n.replace("/", "_"): value for n, value in losses.items() if n != "loss"}
        # runs of one size and length differ only in the learning rate
        key = run.name if all_rates else (run.size, run.samples)
        loss = losses["loss"] if math.isfinite(losses["loss"]) else math.inf
        if key not in found or loss < best[key]:
            found[key], best[key] = row, loss
    return list(found.values())


def write_table(path: AnyPath, table: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV, with empty fields for missing columns."""
    table = list(table)
    # losses by task may differ between runs
    columns = list(dict.fromkeys(name for row in table for name in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
