"""The manifest of a scaling study: its runs, read by every launch script and table.

A study folder has `study.json` (the manifest, written last), `configs/RUN.py`, launch scripts, and
the workdirs `runs/RUN/`.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.value_rules import MAX_COUNT, FloatRange, IntRange, check_fields

STUDY_FILE = "study.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelSize:
    """A model size: a preset's parameters and the training FLOPs of one example.

    `seconds_per_flop` is the machine's time for this model, communication included; None without a
    machine. `fits` is False if the run does not fit in the machine's memory.
    """

    name: str
    params: int
    flops_per_sample: float
    seconds_per_flop: float | None = None
    fits: bool = True


# the bounds of a run's numbers
RUN_BOUNDS = {
    "params": IntRange(1, 10**15),
    "steps": IntRange(1),
    "batch_size": IntRange(1),
    "samples": IntRange(1, 10**18),
    "unique": IntRange(1, 10**18),
    "epochs": FloatRange(0, 1e18),
    "learning_rate": FloatRange(0, 10, exclusive_minimum=True),
    "flops": FloatRange(0, 1e40),
}
# run names become file and folder names
RUN_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class StudyRun:
    """A planned training run of a study.

    `samples` is the number of training examples seen (steps * batch_size), `unique` the size of the
    data set and `epochs` their ratio. `budget` is the requested compute in FLOPs, None in a grid of
    samples. `hours` and `cost` are estimates, None without a machine or a price.
    """

    name: str
    size: str
    params: int
    steps: int
    batch_size: int
    samples: int
    unique: int
    epochs: float
    learning_rate: float
    flops: float
    budget: float | None
    hours: float | None
    cost: float | None

    @property
    def config(self) -> str:
        """The run's config file, relative to the study folder."""
        return f"configs/{self.name}.py"

    @property
    def workdir(self) -> str:
        """The run's workdir, relative to the study folder."""
        return f"runs/{self.name}"


@dataclass(frozen=True)
class Study:
    """The manifest; `left_out` has one line for each combination left out, with its reason."""

    base: str
    machine: str
    price_per_chip_hour: float | None
    runs: tuple[StudyRun, ...]
    left_out: tuple[str, ...]

    def get_run(self, name: str) -> StudyRun:
        """Return the run called `name`; OmfaError with the nearest names if there is none."""
        for run in self.runs:
            if run.name == name:
                return run
        raise make_unknown_name_error("run of the study", name, [run.name for run in self.runs])


@dataclass(frozen=True)
class StudyGrid:
    """The requested grid: sizes by samples or by compute budgets, at each learning rate.

    Exactly one of `samples` and `budgets` (training FLOPs) must be given. Combinations with fewer
    than `min_steps` steps or more than `max_epochs` epochs are left out.
    """

    samples: tuple[int, ...]
    budgets: tuple[float, ...]
    learning_rates: tuple[float, ...]
    batch_size: int
    dataset_size: int
    min_steps: int = 1
    max_epochs: float = math.inf

    def __post_init__(self) -> None:
        if bool(self.samples) == bool(self.budgets):
            raise OmfaError("give --samples or --budgets: one of the two")
        for flag, values in (
            ("--samples", self.samples),
            ("--budgets", self.budgets),
            ("--learning-rates", self.learning_rates),
        ):
            if any(not value > 0 or math.isinf(value) for value in values):
                raise OmfaError(f"{flag}: expected positive numbers, got {list(values)}")
            if len(set(values)) < len(values):
                raise OmfaError(f"{flag}: expected distinct values, got {list(values)}")


def expand_grid(
    sizes: Sequence[ModelSize], grid: StudyGrid, *, chips: int, price: float | None
) -> tuple[tuple[StudyRun, ...], tuple[str, ...]]:
    """Return (runs, lines about combinations left out), sorted by budget and size.

    A budget of C FLOPs at F FLOPs per sample gives C / F samples, rounded to full batches.
    """
    runs, left_out = [], []
    targets: list[tuple[float | None, Callable[[ModelSize], float]]]
    if grid.budgets:
        targets = [(c, lambda size, c=c: c / size.flops_per_sample) for c in grid.budgets]
    else:
        targets = [(None, lambda size, d=d: d) for d in grid.samples]
    for size in sizes:
        for budget, samples_of in targets:
            # full batches, so that samples and FLOPs are exact
            steps = round(samples_of(size) / grid.batch_size)
            samples = steps * grid.batch_size
            epochs = samples / grid.dataset_size
            what = f"{size.name} x " + (f"{budget:g} FLOPs" if budget else f"{samples:,} samples")
            why = ""
            if not size.fits:
                why = "does not fit in the machine's memory"
            elif steps < grid.min_steps:
                why = f"{steps} steps, fewer than {grid.min_steps}"
            elif steps > MAX_COUNT:
                why = f"{steps:g} steps, more than the maximum of {MAX_COUNT}"
            elif epochs > grid.max_epochs:
                why = f"{epochs:.3g} epochs, more than {grid.max_epochs:g}"
            if why:
                left_out.append(f"{what}: {why}")
                continue
            flops = samples * size.flops_per_sample
            seconds = flops * size.seconds_per_flop if size.seconds_per_flop else None
            hours = None if seconds is None else seconds / 3600
            cost = None if hours is None or price is None else hours * chips * price
            for rate in grid.learning_rates:
                # size and samples identify a run; the rate is added only if it varies
                name = f"{size.name}_{samples}"
                if len(grid.learning_rates) > 1:
                    name += f"_lr{rate:g}"
                planned = StudyRun(
                    name=name,
                    size=size.name,
                    params=size.params,
                    steps=steps,
                    batch_size=grid.batch_size,
                    samples=samples,
                    unique=grid.dataset_size,
                    epochs=epochs,
                    learning_rate=rate,
                    flops=flops,
                    budget=budget,
                    hours=hours,
                    cost=cost,
                )
                if planned.name in {run.name for run in runs}:
                    left_out.append(f"{what}: rounds to the same run as another, {planned.name}")
                else:
                    runs.append(planned)
    return tuple(
        sorted(runs, key=lambda run: (run.budget or run.flops, run.params, run.samples, run.name))
    ), tuple(left_out)


def write_study(folder: AnyPath, study: Study) -> None:
    """Write the manifest atomically."""
    with atomic_write(folder / STUDY_FILE) as temporary:
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(study)}, indent=2)
        temporary.write_text(text + "\n")


def read_study(folder: str | os.PathLike) -> Study:
    """Read the manifest of a study folder; OmfaError if it is missing or damaged."""
    folder = require_any_dir(folder, "study", "the study folder (`omfa scaling plan --out`)")
    path = folder / STUDY_FILE
    try:
        found: dict[str, Any] = parse_json(path.read_text())
        if found.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        runs = tuple(StudyRun(**run) for run in found.pop("runs"))
        for run in runs:
            # a damaged manifest must not start runs, and run names become paths
            check_fields(f"run {run.name!s:.60}: ", RUN_BOUNDS, run)
            if not RUN_NAME.fullmatch(run.name):
                raise ValueError(f"invalid run name {run.name!r:.60}")
        if len({run.name for run in runs}) < len(runs):
            raise ValueError("two runs have the same name")
        if not runs:
            raise ValueError("it has no runs")
        return Study(runs=runs, left_out=tuple(found.pop("left_out")), **found)
    except FileNotFoundError:
        raise OmfaError(
            f"{folder} is not a study: {STUDY_FILE} is missing; create one with `omfa scaling plan`"
        ) from None
    except (OmfaError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OmfaError(f"{path} is damaged ({error}); plan the study again") from None


def merge_runs(
    before: tuple[StudyRun, ...], runs: tuple[StudyRun, ...], out: AnyPath
) -> tuple[StudyRun, ...]:
    """Return the runs of a study in `out`: the existing ones in their order, then the new ones.

    A launcher's index is a position in this order, so existing runs never move.
    """
    known = {run.name: run for run in before}
    for run in runs:
        old = known.get(run.name)
        if old and (old.steps, old.batch_size, old.learning_rate) != (
            run.steps,
            run.batch_size,
            run.learning_rate,
        ):
            raise OmfaError(
                f"{out} has a run {run.name} of {old.steps} steps, batch {old.batch_size}, rate"
                f" {old.learning_rate:g}; this plan's has {run.steps}, {run.batch_size} and"
                f" {run.learning_rate:g}: give another folder to --out"
            )
    return (*before, *(run for run in runs if run.name not in known))
