"""The weights a run starts from: its own checkpoint, a given one, a converted model or random."""

import dataclasses
import logging
from collections.abc import Callable

import jax
import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig, get_vae_config, init_vae
from omfa_jax.models.reference_unet import init_from_single
from omfa_jax.parallel import distributed
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step, list_steps
from omfa_jax.train.checkpoints.orbax_paths import require_checkpoint_storage
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.settings import InitialWeightsSource
from omfa_jax.train.task_changes import describe_task_differences, project_prompts, update_tasks
from omfa_jax.weights.conv_in import get_input_groups
from omfa_jax.weights.imported_folder import load_weights, read_statements
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.model_folder import (
    load_model_folder,
    load_vae,
    save_model_folder,
    write_tasks,
)
from omfa_jax.weights.omfa_model import Model, Params
from omfa_jax.weights.prompt_table import PromptTable, make_seeded_prompts
from omfa_jax.weights.scheduler_agreement import check_agreement, describe_source

log = logging.getLogger(__name__)

# tokens of the seeded prompt table of presets that have no text encoder
SEEDED_TOKENS = 4


def make_preset_vae(source: InitialWeightsSource) -> tuple[VAEConfig, Callable[[], Params]]:
    """Return the preset VAE's config and a function that draws its parameters."""
    vae_config = get_vae_config(source.vae)
    return vae_config, lambda: init_vae(vae_config, jax.random.key(source.seed))


def load_initial_model(
    source: InitialWeightsSource, workdir: AnyPath | None, *, abstract: bool = False
) -> Model:
    """Return the model that training starts from; `unet_params` None means a random UNet.

    The first of these that exists:
    1. the workdir's own checkpoint: its model folder (the loop restores the UNet);
    2. `config.checkpoint.start_from`: another workdir's newest checkpoint;
    3. `config.model.init`: a converted model;
    4. random weights of the presets.
    `abstract` reads shapes only.
    """
    if (
        workdir is not None
        and find_newest_complete_step(workdir / "checkpoints", warn=False) is not None
    ):
        # without the UNet: the loop restores it sharded, with the optimizer's state
        model = load_model_folder(workdir / MODEL_FOLDER)
        check_same_model(source, model, workdir)
        return update_tasks(source, model, workdir / MODEL_FOLDER)
    if source.start_from:
        other = to_path(source.start_from)
        require_checkpoint_storage(other, "config.checkpoint.start_from")
        model = load_model_folder(other / MODEL_FOLDER)
        check_same_model(source, model, other, new_run=True)
        model = update_tasks(source, model, other / MODEL_FOLDER)
        params, step = restore_params(other)
        # processes may disagree on which step of a damaged checkpoint folder is readable
        distributed.check_equal_across_processes(
            {"the step of config.checkpoint.start_from": str(step)}
        )
        log.info("starting from step %d of %s", step, other)
        return model.with_unet(params)
    if source.init:
        return load_converted(source, to_path(source.init))
    vae_config, draw = make_preset_vae(source)
    settings = source.diffusion_for(vae_config)
    unet_config = make_unet_config(source.unet, settings)
    if not abstract:
        log.warning("no config.model.init: the VAE is random, for tests only")
    # on the host: as a constant of the step it is transferred once, replicated over the mesh
    vae_params = {} if abstract else jax.device_get(draw())
    return Model(
        settings,
        unet_config,
        vae_config,
        None,
        vae_params,
        make_prompt_rows(None, settings, unet_config),
    )


def load_converted(source: InitialWeightsSource, folder: AnyPath) -> Model:
    """Return the model of a diffusers or imported folder, as this config will train it."""
    description = read_description(folder)
    settings = source.diffusion_for(description.vae_config)
    # another size of UNet on a trained VAE, as the scaling studies use it
    if not source.init_unet:
        unet_config = make_unet_config(source.unet, settings)
        vae_params = load_vae(folder, description.vae_config)
        log.info("VAE and prompts from %s, a random UNet %r", folder, source.unet)
        table = project_prompts(description.prompts, unet_config)
        rows = make_prompt_rows(table, settings, unet_config)
        return Model(settings, unet_config, description.vae_config, None, vae_params, rows)
    if description.omfa is not None:
        trained = DiffusionSettings.from_json(description.omfa)
        check_same_meaning(settings, trained, folder, new_run=True)
    statements = read_statements(folder)
    notes = check_agreement(statements, settings, folder, ignore=source.ignore_scheduler)
    model = load_weights(folder, inputs=get_input_groups(settings))
    for note in (*model.notes, *describe_source(statements, description.scheduler), *notes):
        log.info("%s: %s", folder, note)
    if model.prompts is None:
        raise OmfaError(
            f"{folder} has no prompt table and its UNet was trained with text: make one with"
            f" `convert_weights.py import {folder} --out DIR --config CONFIG` and give DIR to"
            " config.model.init"
        )
    log.info("starting from the weights in %s", folder)
    rows = make_prompt_rows(model.prompts, settings, model.unet_config)
    params = init_from_single(model.unet_params, has_reference=settings.reference)
    return Model(settings, model.unet_config, model.vae_config, params, model.vae_params, rows)


def make_prompt_rows(
    table: PromptTable | None, settings: DiffusionSettings, unet_config: UNetConfig
) -> dict[str, np.ndarray]:
    """Return the tasks' prompt embeddings; without a table, seeded ones and a log warning."""
    texts = [task.prompt for task in settings.tasks]
    if table is None:
        log.warning("no prompt table in config.model.init: fixed random prompt embeddings are used")
        table = make_seeded_prompts(
            texts, SEEDED_TOKENS, unet_config.context_dim, unet_config.pooled_dim
        )
    return table.select_rows(texts)


def check_same_model(
    source: InitialWeightsSource, model: Model, where: AnyPath, *, new_run: bool = False
) -> None:
    """Raise an OmfaError if the config asks for another model than the one in `where`.

    A `new_run` that starts from its weights may have other tasks.
    """
    wanted = source.diffusion_for(model.vae_config)
    check_same_meaning(wanted, model.settings, where, new_run=new_run)
    # with `init` the UNet's shape is the converted model's; the preset's name is ignored
    if not (source.init and source.init_unet):
        asked = make_unet_config(source.unet, wanted)
        if asked != model.unet_config:
            raise OmfaError(
                f"{where} holds a UNet of another size than preset {source.unet!r}:"
                f" {describe_differences(asked, model.unet_config)};"
                " change config.model.unet or --workdir"
            )


def check_same_meaning(
    wanted: DiffusionSettings, trained: DiffusionSettings, where: AnyPath, *, new_run: bool = False
) -> None:
    """Raise an OmfaError if the config's settings differ from those the weights were trained with.

    The wording of prompts and the tasks' weights may change; in a `new_run` the tasks too, with a
    warning.
    """

    # tasks are compared separately, since their weights and prompts may differ
    def meaning(settings: DiffusionSettings) -> DiffusionSettings:
        return dataclasses.replace(settings, tasks=wanted.tasks)

    tasks = describe_task_differences(wanted.tasks, trained.tasks)
    if tasks and new_run:
        log.warning(
            "%s was trained with other tasks (%s): its weights start this run", where, tasks
        )
    elif tasks:
        raise OmfaError(
            f"{where} was trained with other tasks: {tasks}; set config.tasks to those tasks"
            " (weight=0 leaves one out of the training), or train the config's tasks from its"
            f" weights in a new run: --workdir NEW --config.checkpoint.start_from={where}"
        )
    if meaning(wanted) != meaning(trained):
        raise OmfaError(
            f"{where} was trained with other settings:"
            f" {describe_differences(meaning(wanted), meaning(trained))};"
            " use its config, or a new --workdir"
        )


def describe_differences(config: object, trained: object) -> str:
    """Return the fields in which two dataclasses of one type differ."""
    pairs = [
        (field.name, getattr(config, field.name), getattr(trained, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
    ]
    return "; ".join(
        f"{name}: {a} in the config, {b} in the checkpoint" for name, a, b in pairs if a != b
    )


def write_model_folder(model: Model, workdir: AnyPath) -> None:
    """Write workdir/model: everything in the model that training does not change.

    A folder left by an attempt without a checkpoint is replaced, because its VAE or prompts may
    differ from this run's. When a run resumes, only the tasks are rewritten.
    """
    # the workdir is shared: one writer
    if jax.process_index() != 0:
        return
    checkpoints, folder = workdir / "checkpoints", workdir / MODEL_FOLDER
    if find_newest_complete_step(checkpoints, warn=False) is not None:
        write_tasks(folder, model)
    # if no checkpoint is complete the run fails later; until then leave everything unchanged
    elif not list_steps(checkpoints):
        save_model_folder(folder, model)
