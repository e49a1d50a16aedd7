"""Evaluate any row of the model's task table: score each component that the row generates."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax

from omfa_jax import __version__
from omfa_jax.cli.eval import table
from omfa_jax.cli.eval_split import SCORES_FILE, on_main, records_digest, scored, together
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import require_writable_dir
from omfa_jax.core.tasks import Task
from omfa_jax.data.settings import PipelineSettings
from omfa_jax.diffusion.sample import SamplerSettings
from omfa_jax.evals.examples import Split
from omfa_jax.evals.predictions import ROWS, Work, busy_devices, claim, weights_digest
from omfa_jax.evals.split import PREDICTIONS
from omfa_jax.sampling.generate import Sampler
from omfa_jax.weights.bundle import Bundle

log = logging.getLogger(__name__)

# the setting under which a generated component is scored: its ground truth is the record's own
SETTING_OF = {"person": "paired", "garment": "try_off"}


def find_scored_row(tasks: Sequence[Task], name: str, known: Sequence[str]) -> Task:
    """Return the row called `name`; OmfaError if there is none, or none of it can be scored."""
    row = next((task for task in tasks if task.name == name), None)
    if row is None:
        raise unknown("task (--task)", name, {*known, *(task.name for task in tasks)})
    if not set(row.noised) & set(SETTING_OF):
        raise OmfaError(
            f"--task {name} generates only {', '.join(row.noised)}, for which no protocol has a"
            " setting; give --loss to measure the held-out loss"
        )
    return row


def evaluate_row(
    bundle: Bundle,
    row: Task,
    options: argparse.Namespace,
    pipeline: PipelineSettings,
    out: Path,
) -> None:
    """Sample a row on the split, and score each component into OUT/COMPONENT (process 0).

    A generated person is scored as `paired` is, a generated garment as `try_off` is; the split is
    sampled once for both. Each folder is what `omfa eval --checkpoint` writes for a single setting.
    """
    settings = SamplerSettings(
        options.steps, options.guidance, options.sampler, options.guidance_rescale
    )
    splits = {
        name: Split(pipeline, options.split, setting, limit=options.limit, seed=options.seed)
        for name, setting in SETTING_OF.items()
        if name in row.noised
    }
    for name in row.noised:
        if name not in splits:
            log.warning(
                "--task %s: the %s is not scored, no protocol has a setting", row.name, name
            )
    facts = {
        "checkpoint": weights_digest(bundle),
        "data": records_digest(Path(options.data)),
        "split": options.split,
        "task": row.name,
        "limit": options.limit,
        "seed": options.seed,
        "sampler": dataclasses.asdict(settings),
        "dtype": options.dtype,
        "rows": ROWS,
        "omfa_jax": __version__,
    }

    def prepare() -> None:
        for name, split in splits.items():
            folder = require_writable_dir(out / name, "--out")
            claim(folder, {**facts, "setting": split.setting}, restart=options.restart)
            split.write_truth(folder)

    on_main(prepare)
    count = len(next(iter(splits.values())))
    sampler = Sampler(bundle, settings, dtype=options.dtype, devices=busy_devices(count))
    first, *others = (
        Work(out / name / PREDICTIONS, row.name, name, split.names, split.given, split.size_px)
        for name, split in splits.items()
    )
    wrote = together(sampler, options)(dataclasses.replace(first, others=tuple(others)))
    log.info("%s: %d of %d images sampled now", out, wrote, count * len(splits))
    if jax.process_index():
        return
    for name, split in splits.items():
        folder = out / name
        as_setting = argparse.Namespace(**{**vars(options), "setting": split.setting})
        scores = scored(as_setting, folder, folder / PREDICTIONS, folder / SCORES_FILE)
        print(f"{row.name}, generated {name}:\n{table(scores)}")
        log.info("scores: %s", folder / SCORES_FILE)
