"""Apply the config's task weights and prompts to a model that was trained with another table."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.tasks import Task
from omfa_jax.data.pipeline.grain_pipeline import compute_task_shares
from omfa_jax.models import UNetConfig
from omfa_jax.train.settings import InitialWeightsSource
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.prompt_table import (
    PromptTable,
    make_seeded_prompts,
    merge_tables,
    project_table,
)

log = logging.getLogger(__name__)


def update_tasks(source: InitialWeightsSource, model: Model, folder: AnyPath) -> Model:
    """Return the model of `folder` with the task weights and prompts of the config.

    The tasks and what they noise are already equal (`check_same_meaning`). A prompt for which no
    embedding is found is an OmfaError that names the command to make one.
    """
    tasks = source.diffusion_for(model.vae_config).tasks
    if tasks == model.settings.tasks:
        return model
    table = find_prompts(source, model, folder, tasks)
    rows = table.select_rows([task.prompt for task in tasks])
    settings = dataclasses.replace(model.settings, tasks=tasks)
    return dataclasses.replace(model, settings=settings, prompts=rows)


def find_prompts(
    source: InitialWeightsSource, model: Model, folder: AnyPath, tasks: Sequence[Task]
) -> PromptTable:
    """Return the model's prompt table with an embedding for every task's prompt.

    A new prompt is looked up in config.model.init's table. If the model uses the seeded embeddings
    of a run without text encoders, new prompts get seeded ones too.
    """
    own = read_description(folder).prompts
    assert own is not None  # the model was read from there
    missing = [task for task in tasks if task.prompt not in own.prompts]
    if not missing:
        return own
    # the converted model first: its embeddings are real text, the seeded ones arbitrary vectors
    others = [(source.init, load_init_prompts(source, model.unet_config))]
    others.append(("their seed", make_seeded_like(own, [task.prompt for task in missing])))
    for place, table in others:
        # all missing prompts from one place: embeddings of two encoders must not be mixed
        if table is None or any(task.prompt not in table.prompts for task in missing):
            continue
        warn_if_encoders_differ(own, table, folder, place)
        for task in missing:
            log.info("prompt of %s: %r, its embedding from %s", task.name, task.prompt, place)
        return merge_tables(own, table)
    absent = " and ".join(f"config.tasks.{task.name}.prompt={task.prompt!r}" for task in missing)
    raise OmfaError(
        f"no embedding of {absent}: {folder} has {', '.join(map(repr, own.prompts[:-1]))}, and"
        f" config.model.init={source.init!r} does not have it either; embed it with"
        " `convert_weights.py import SRC --out DIR --config CONFIG` (SRC: the weights it started"
        " with, and their text encoders) and give --config.model.init=DIR, or keep the wording"
    )


def load_init_prompts(source: InitialWeightsSource, unet_config: UNetConfig) -> PromptTable | None:
    """Return the prompt table of config.model.init, None if there is no such folder or table."""
    folder = to_path(source.init)
    if not source.init or not folder.is_dir():
        return None
    return project_prompts(read_description(folder).prompts, unet_config)


def make_seeded_like(own: PromptTable, prompts: Sequence[str]) -> PromptTable | None:
    """Return seeded embeddings of `prompts` if the model's own are seeded, else None."""
    # nothing records that a table is seeded, so it is drawn again and compared
    _, tokens, dim = own.context.shape
    texts = [*own.prompts[:-1], *prompts]
    seeded = make_seeded_prompts(texts, tokens, dim, own.pooled.shape[-1])
    there = seeded.select_rows(own.prompts[:-1])
    same = np.array_equal(there["context"], own.context)
    return seeded if same and np.array_equal(there["pooled"], own.pooled) else None


def warn_if_encoders_differ(
    own: PromptTable, new: PromptTable, folder: AnyPath, place: str
) -> None:
    """Warn if the two tables embed a shared prompt differently: their text encoders differ."""
    for prompt in set(own.prompts) & set(new.prompts):
        ours, theirs = (t.context[t.prompts.index(prompt)] for t in (own, new))
        # one encoder on two machines differs by rounding only, far below 1e-3
        if ours.shape == theirs.shape and not np.allclose(ours, theirs, atol=1e-3):
            log.warning(
                "%s and %s embed %r differently: the text encoders of their prompt tables differ",
                folder,
                place,
                prompt or "the empty prompt",
            )
            return


def project_prompts(table: PromptTable | None, unet_config: UNetConfig) -> PromptTable | None:
    """Return the prompt table projected to a new UNet's widths; log it if they change."""
    if table is None:
        return None
    widths = (unet_config.context_dim, unet_config.pooled_dim)
    there = (table.context.shape[-1], table.pooled.shape[-1])
    if widths != there:
        log.info("prompt embeddings %s wide are projected to the UNet's %s", there, widths)
    return project_table(table, *widths)


def describe_task_differences(wanted: Sequence[Task], trained: Sequence[Task]) -> str:
    """Return how two task tables differ, apart from weights and prompts, "" if they do not."""
    ours, theirs = ({task.name: set(task.noised) for task in t} for t in (wanted, trained))
    parts = []
    for what, names in (
        ("it has no", [name for name in ours if name not in theirs]),
        ("the config lacks its", [name for name in theirs if name not in ours]),
    ):
        if names:
            parts.append(f"{what} {', '.join(names)}")
    parts += [
        f"{name} noises {'+'.join(sorted(ours[name]))} in the config,"
        f" {'+'.join(sorted(theirs[name]))} in the checkpoint"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    ]
    return "; ".join(parts)


def format_task_shares(tasks: Sequence[Task]) -> str:
    """Return each task's share of the training examples, with its prompt."""
    shares = np.diff(compute_task_shares(tasks), prepend=0.0)
    return ", ".join(
        f"{share:.1%} {task.name} ({task.prompt!r})"
        for task, share in zip(tasks, shares, strict=True)
    )
