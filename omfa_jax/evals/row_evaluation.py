"""Evaluate any row of a model's task table: score each component that the row generates."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import jax

from omfa_jax import __version__
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.tasks import Task
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.evals.prediction_sampling import SamplingJob, claim_folder
from omfa_jax.evals.scores_file import Scores
from omfa_jax.evals.split_evaluation import (
    SCORES_FILE,
    SplitRequest,
    compute_records_digest,
    make_collective_sampler,
    score_predictions,
)
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import PREDICTIONS
from omfa_jax.parallel.distributed import run_on_main_process
from omfa_jax.sampling.grouped_sampling import ROWS_PER_GROUP, get_busy_devices
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.weights_digest import compute_weights_digest

log = logging.getLogger(__name__)

# component -> the setting that it is scored under; the record's own image is its ground truth
COMPONENT_SETTINGS = {"person": "paired", "garment": "try_off"}


def find_row(
    tasks: Sequence[Task], name: str, other_names: Sequence[str] = (), *, flag: str = "--task"
) -> Task:
    """Return the row called `name`; an OmfaError if there is none, or nothing in it can be scored.

    `other_names` are suggested as well for a misspelt name; `flag` is where the name was given.
    """
    row = next((task for task in tasks if task.name == name), None)
    if row is None:
        raise make_unknown_name_error(
            f"task ({flag})", name, {*other_names, *(task.name for task in tasks)}
        )
    if not set(row.noised) & set(COMPONENT_SETTINGS):
        raise OmfaError(
            f"{flag}: {name} generates only {', '.join(row.noised)}, for which no protocol has a"
            " setting; its held-out loss can be measured (--loss)"
        )
    return row


def evaluate_row(
    model: Model, row: Task, request: SplitRequest, pipeline: PipelineSettings, out: AnyPath
) -> Mapping[str, Scores] | None:
    """Sample a row on the split, score each component and write OUT/COMPONENT/scores.json.

    The split is sampled once for all components. A generated person is scored under the setting
    `paired`, a generated garment under `try_off`; the request's own setting is not used. Return
    the scores by component on process 0, None on the others.
    """
    splits = {
        name: EvalSplit(pipeline, request.split, setting, limit=request.limit, seed=request.seed)
        for name, setting in COMPONENT_SETTINGS.items()
        if name in row.noised
    }
    for name in row.noised:
        if name not in splits:
            log.warning("--task %s: %s is not scored: no protocol has a setting", row.name, name)
    # everything that the images depend on; a folder with other facts is not continued
    facts = {
        "checkpoint": compute_weights_digest(model),
        "data": compute_records_digest(pipeline.records),
        "split": request.split,
        "task": row.name,
        "limit": request.limit,
        "seed": request.seed,
        "sampler": dataclasses.asdict(request.sampler),
        "dtype": request.dtype,
        "rows": ROWS_PER_GROUP,
        "omfa_jax": __version__,
    }

    def prepare() -> None:
        for name, split in splits.items():
            folder = require_any_writable_dir(out / name, "--out")
            claim_folder(folder, facts, overwrite=request.overwrite)
            split.write_ground_truth(folder)

    # process 0 creates the folders that the others write into
    run_on_main_process(prepare)
    count = len(next(iter(splits.values())))
    sampler = Sampler(model, request.sampler, dtype=request.dtype, devices=get_busy_devices(count))
    # one job with several outputs: sampling a component alone would repeat the denoising
    first, *others = (
        SamplingJob(
            out / name / PREDICTIONS,
            row.name,
            name,
            split.names,
            split.get_inputs,
            split.get_size_px,
        )
        for name, split in splits.items()
    )
    sample = make_collective_sampler(sampler, seed=request.seed, batch_size=request.batch_size)
    wrote = sample(dataclasses.replace(first, other_components=tuple(others)))
    log.info("%s: %d of %d images sampled now", out, wrote, count * len(splits))
    if jax.process_index():
        return None
    return {
        name: score_predictions(
            dataclasses.replace(request, setting=split.setting),
            out / name,
            out / name / PREDICTIONS,
            out / name / SCORES_FILE,
        )
        for name, split in splits.items()
    }
