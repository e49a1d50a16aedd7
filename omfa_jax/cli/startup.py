"""Where a run's weights come from, in one order: own checkpoint, given one, converted, random."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from omfa_jax.cli import config as border
from omfa_jax.cli.task_table import fitting, task_differences, with_tasks_of
from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig, init_vae, unet, vae
from omfa_jax.models.reference_unet import twice
from omfa_jax.parallel import distributed
from omfa_jax.train.checkpoint import MODEL_FOLDER
from omfa_jax.train.integrity import newest_whole_step, steps_in
from omfa_jax.train.load import restore_params
from omfa_jax.weights.agreement import compare, notes_of
from omfa_jax.weights.bundle import Bundle, Params
from omfa_jax.weights.conv_in import groups_of
from omfa_jax.weights.description import read_description
from omfa_jax.weights.frozen import load_frozen, load_vae, save_frozen, save_tasks
from omfa_jax.weights.imported import load_weights, scheduler_statements
from omfa_jax.weights.prompts import PromptTable, seeded_prompts

log = logging.getLogger(__name__)

# the half of a VAE that makes latents
ENCODER = ("encoder", "quant_conv")
# tokens of the seeded prompt table of presets that have no text encoder
SEEDED_TOKENS = 4


def fresh_vae(config: border.Config) -> tuple[VAEConfig, Callable[[], Params]]:
    """Return the preset VAE's config and a function that draws its parameters."""
    vae_config = vae(config.model.vae)
    return vae_config, lambda: init_vae(vae_config, jax.random.key(config.seed))


def vae_start(config: border.Config) -> tuple[VAEConfig, Params, Params | Callable[[], Params]]:
    """Return (VAE config, the parts that stay as they are, those to train or how to draw them).

    A whole new VAE of the preset, or with `config.autoencoder.decoder_of` only the decoder of a
    model: its encoder stays, and with it every stored latent and every UNet trained on them.
    """
    source = config.autoencoder.decoder_of
    if not source:
        vae_config, draw = fresh_vae(config)
        return vae_config, {}, draw
    vae_config = read_description(Path(source)).vae_config
    params = load_vae(Path(source), vae_config)
    kept = {name: params[name] for name in ENCODER}
    return vae_config, kept, {name: params[name] for name in params if name not in kept}


def starting_bundle(
    config: border.Config, workdir: Path | None, *, abstract: bool = False
) -> Bundle:
    """Return what training starts from; `unet_params` None means a random UNet.

    1. the workdir's own checkpoint: its model folder (the loop restores the UNet);
    2. `config.checkpoint.start_from`: another workdir's newest checkpoint;
    3. `config.model.init`: a converted model;
    4. random weights of the presets.
    `abstract` reads shapes only.
    """
    if workdir is not None and newest_whole_step(workdir / "checkpoints", warn=False) is not None:
        bundle = load_frozen(workdir / MODEL_FOLDER)
        check_same_model(config, bundle, workdir)
        return with_tasks_of(config, bundle, workdir / MODEL_FOLDER)
    if config.checkpoint.start_from:
        source = Path(config.checkpoint.start_from)
        bundle = load_frozen(source / MODEL_FOLDER)
        check_same_model(config, bundle, source)
        bundle = with_tasks_of(config, bundle, source / MODEL_FOLDER)
        params, step = restore_params(source)
        # of a damaged checkpoint one process may see what another does not
        distributed.require_same({"the step of config.checkpoint.start_from": str(step)})
        log.info("starting from step %d of %s", step, source)
        return bundle.with_unet(params)
    if config.model.init:
        return converted(config, Path(config.model.init))
    vae_config, draw = fresh_vae(config)
    settings = border.diffusion_settings(config, vae_config)
    unet_config = preset_unet(config, settings)
    if not abstract:
        log.warning("no config.model.init: the VAE is random, good for tests of the machinery only")
    vae_params = {} if abstract else jax.device_get(draw())
    return Bundle(
        settings,
        unet_config,
        vae_config,
        None,
        vae_params,
        prompt_rows(None, settings, unet_config),
    )


def converted(config: border.Config, folder: Path) -> Bundle:
    """Return the model of a diffusers or imported folder, as this config will train it."""
    description = read_description(folder)
    settings = border.diffusion_settings(config, description.vae_config)
    if not config.model.init_unet:
        unet_config = preset_unet(config, settings)
        vae_params = load_vae(folder, description.vae_config)
        log.info("VAE and prompts from %s, a random UNet %r", folder, config.model.unet)
        rows = prompt_rows(fitting(description.prompts, unet_config), settings, unet_config)
        return Bundle(settings, unet_config, description.vae_config, None, vae_params, rows)
    if description.omfa is not None:
        check_same_meaning(settings, DiffusionSettings.from_json(description.omfa), folder)
    statements = scheduler_statements(folder)
    notes = compare(statements, settings, folder, ignore=config.model.ignore_scheduler)
    model = load_weights(folder, inputs=groups_of(settings))
    for note in (*model.notes, *notes_of(statements, description.scheduler), *notes):
        log.info("%s: %s", folder, note)
    if model.prompts is None:
        raise OmfaError(
            f"{folder} has no prompt table and its UNet was trained with text: make one with"
            f" `convert_weights.py import {folder} --out DIR --config CONFIG` and give DIR to"
            " config.model.init"
        )
    log.info("starting from the weights in %s", folder)
    rows = prompt_rows(model.prompts, settings, model.unet_config)
    params = twice(model.unet_params, has_reference=settings.reference)
    return Bundle(settings, model.unet_config, model.vae_config, params, model.vae_params, rows)


def preset_unet(config: border.Config, settings: DiffusionSettings) -> UNetConfig:
    """Return the preset's UNet with the widths that inputs and canvas ask for."""
    return unet(
        config.model.unet, in_channels=settings.in_channels, out_channels=settings.out_channels
    )


def prompt_rows(
    table: PromptTable | None, settings: DiffusionSettings, unet_config: UNetConfig
) -> dict[str, np.ndarray]:
    """Return the tasks' prompt embeddings; without a table, fixed seeded ones (said on the log)."""
    texts = [task.prompt for task in settings.tasks]
    if table is None:
        log.warning("no prompt table in config.model.init: fixed random prompt embeddings are used")
        table = seeded_prompts(
            texts, SEEDED_TOKENS, unet_config.context_dim, unet_config.pooled_dim
        )
    return table.rows(texts)


def check_same_model(config: border.Config, bundle: Bundle, where: Path) -> None:
    """Raise an OmfaError if the config asks for another model than the one in `where`."""
    wanted = border.diffusion_settings(config, bundle.vae_config)
    check_same_meaning(wanted, bundle.settings, where)
    # with `init` the UNet's shape is the converted model's, whatever the preset's name
    if not (config.model.init and config.model.init_unet):
        asked = preset_unet(config, wanted)
        if asked != bundle.unet_config:
            raise OmfaError(
                f"{where} holds a UNet of another size than preset {config.model.unet!r}:"
                f" {differences(asked, bundle.unet_config)}; change config.model.unet or --workdir"
            )


def check_same_meaning(wanted: DiffusionSettings, trained: DiffusionSettings, where: Path) -> None:
    """Raise an OmfaError if the config no longer says what the weights were trained to mean.

    Prompts' wording and the tasks' shares in training may change.
    """

    def meaning(settings: DiffusionSettings) -> DiffusionSettings:
        return dataclasses.replace(settings, tasks=wanted.tasks)

    tasks = task_differences(wanted.tasks, trained.tasks)
    if tasks:
        raise OmfaError(
            f"{where} was trained with other tasks: {tasks}; give config.tasks those that it has"
            " (weight=0 leaves one out of the training), or use a new --workdir"
        )
    if meaning(wanted) != meaning(trained):
        raise OmfaError(
            f"{where} was trained with other settings:"
            f" {differences(meaning(wanted), meaning(trained))}; use its config, or a new --workdir"
        )


def differences(config: object, trained: object) -> str:
    """Return the fields in which two dataclasses of one type differ."""
    pairs = [
        (field.name, getattr(config, field.name), getattr(trained, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
    ]
    return "; ".join(f"{name}: config {a}, there {b}" for name, a, b in pairs if a != b)


def write_model_folder(bundle: Bundle, workdir: Path) -> None:
    """Write workdir/model: all of the model that training will not change.

    A folder that an attempt without a checkpoint left behind is replaced: its VAE or prompts may
    not be the ones that this run trains with. Of a run that goes on, the tasks are written anew.
    """
    if jax.process_index() != 0:
        return
    checkpoints, folder = workdir / "checkpoints", workdir / MODEL_FOLDER
    if newest_whole_step(checkpoints, warn=False) is not None:
        save_tasks(folder, bundle)
    # checkpoints of which none is whole stop the run later; till then nothing of theirs is touched
    elif not steps_in(checkpoints):
        save_frozen(folder, bundle)


def vae_fingerprint(config: VAEConfig, params: Params) -> str:
    """Return the SHA-256 of what makes latents, the encoder and its scale: they carry it."""
    digest = hashlib.sha256(str(config.scaling_factor).encode())
    for path, leaf in sorted(trees.walk({name: params[name] for name in ENCODER})):
        digest.update("/".join(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()
