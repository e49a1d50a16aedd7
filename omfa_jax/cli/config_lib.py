"""Config files: load, override from the command line, check, and convert to settings."""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from omfa_jax.cli import config_table
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_file
from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.core.value_rules import format_value
from omfa_jax.data.pipeline.augment import AugmentSettings
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings
from omfa_jax.data.pipeline.mixture import parse_mixture
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.diffusion.schedule import ScheduleSettings, TimestepDistribution
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.evals.settings import EvaluationSettings
from omfa_jax.models import VAEConfig
from omfa_jax.parallel.mesh import MeshSettings
from omfa_jax.train.config_keys import RENAMED_KEYS
from omfa_jax.train.settings import (
    InitialWeightsSource,
    KeepSettings,
    LossSettings,
    OptimizerSettings,
    TrainSettings,
)

# a locked ConfigDict, whose attributes are dynamic: a static type would add nothing
Config = Any

log = logging.getLogger(__name__)

PREFIX = "--config."


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the locked config of a Python file's `get_config()`, with overrides applied.

    Overrides are `--config.a.b=value`. A single OmfaError lists all values that are wrong
    (`config_table`). The file's parent's parent is added to the import path, so that `from configs
    import base` works.
    """
    path = require_file(path, "config", "--config").absolute()
    if path.suffix != ".py":
        raise OmfaError(f"config {path}: expected a Python file (.py); change --config")
    root = str(path.parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"omfa_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise OmfaError(f"config {path} has no get_config(), which returns a ConfigDict")
        config = module.get_config()
    except OmfaError:
        raise
    except KeyboardInterrupt:
        raise
    # a config is a user's code, which may raise anything, SystemExit included
    except BaseException as error:
        old = config_table.find_renamed_key(error)
        if old is not None:
            raise OmfaError(f"{config_table.make_renamed_key_error(old)}; change {path}") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise OmfaError(f"config {path} cannot be run: {reason}") from error
    if isinstance(config, FrozenConfigDict):
        config = config.as_configdict()
    if not isinstance(config, ConfigDict):
        raise OmfaError(
            f"config {path}: get_config() must return the ConfigDict of base.get_config(), got"
            f" {type(config).__name__}"
        )
    config_table.update_old_config(config)
    given: dict[str, str] = {}
    for override in overrides:
        apply_override(config, override)
        name, _, text = override.partition("=")
        if given.setdefault(name, text) != text:
            log.warning("%s is given as %s and as %s: using the last one", name, given[name], text)
            given[name] = text
    try:
        config_table.check_config(config)
        checked: Config = config.lock()
    except (TypeError, RecursionError) as error:
        # keys that are not strings, or a config that contains itself
        raise OmfaError(f"config {path} is not a tree of names and values: {error}") from error
    warmup, steps = checked.optimizer.warmup_steps, checked.train.steps
    if warmup >= steps:
        log.warning(
            "config.optimizer.warmup_steps=%d, config.train.steps=%d: the run ends during warm-up",
            warmup,
            steps,
        )
    return checked


def apply_override(config: Config, override: str) -> None:
    """Apply one `--config.a.b=value`; the value must have the default's type."""
    if not override.startswith(PREFIX) or "=" not in override:
        raise OmfaError(f"unknown flag {override!r}; config values are set as --config.a.b=value")
    dotted, text = override[len(PREFIX) :].split("=", 1)
    if dotted in RENAMED_KEYS:
        raise config_table.make_renamed_key_error(dotted)
    *folders, name = dotted.split(".")
    node = config
    for folder in folders:
        if folder not in node or not isinstance(node[folder], ConfigDict):
            raise make_unknown_name_error(f"config group in {override!r}", folder, node.keys())
        node = node[folder]
    if name not in node:
        raise make_unknown_name_error(f"config value in {override!r}", name, node.keys())
    if isinstance(node[name], ConfigDict):
        raise OmfaError(
            f"{override!r} is a group; set one of its values: {', '.join(node[name].keys())}"
        )
    node[name] = parse_value(text, node[name], override)


def parse_value(text: str, default: Any, where: str) -> Any:
    """Return `text` converted to the type of `default`; an OmfaError if it cannot be."""
    if isinstance(default, str):
        return text
    if default is None:
        raise OmfaError(f"{where!r}: the config file sets it to None; set a value there")
    if isinstance(default, bool):
        words = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise OmfaError(f"{where!r}: expected true or false, got {text!r}")
    try:
        value = ast.literal_eval(text)
    # deeply nested text overflows the parser's stack
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if isinstance(default, float) and type(value) is int:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        kind, name = type(default).__name__, where.partition("=")[0]
        raise OmfaError(f"{name}: expected {kind}, got {format_value(text)}")
    return value


def make_diffusion_settings(config: Config, vae: VAEConfig) -> DiffusionSettings:
    """Return the settings saved with the weights; the VAE fixes stride and latent channels."""
    tasks = []
    for name, row in config.tasks.items():
        tasks.append(Task(name, tuple(row.noised), float(row.weight), row.prompt))
    d = config.diffusion
    return DiffusionSettings(
        tasks=tuple(tasks),
        slots_px=tuple(tuple(config.canvas[name]) for name in COMPONENTS),
        stride=vae.stride,
        latent_channels=vae.latent_channels,
        layout=config.canvas.layout,
        unet_inputs=tuple(d.unet_inputs),
        prediction=d.prediction,
        pose_style=config.data.pose_style,
        reference=config.model.reference,
        schedule=ScheduleSettings(
            spacing=d.spacing,
            steps_offset=d.steps_offset,
            zero_terminal_snr=d.zero_terminal_snr,
        ),
    )


def make_weights_source(config: Config) -> InitialWeightsSource:
    """Return where the run's initial weights come from."""
    m = config.model
    return InitialWeightsSource(
        unet=m.unet,
        vae=m.vae,
        init=m.init,
        init_unet=m.init_unet,
        ignore_scheduler=m.ignore_scheduler,
        start_from=config.checkpoint.start_from,
        seed=config.seed,
        diffusion_for=functools.partial(make_diffusion_settings, config),
    )


def make_train_settings(config: Config) -> TrainSettings:
    """Return the training run's settings."""
    o, t = config.optimizer, config.train
    return TrainSettings(
        steps=t.steps,
        batch_size=t.batch_size,
        seed=config.seed,
        compute_dtype=t.compute_dtype,
        remat=t.remat,
        attention=t.attention,
        grad_accum_steps=t.grad_accum_steps,
        ema_decay=t.ema_decay,
        optimizer=OptimizerSettings(**o.to_dict()),
        loss=LossSettings(
            min_snr_gamma=config.diffusion.min_snr_gamma,
            condition_dropout=config.diffusion.condition_dropout,
            timesteps=TimestepDistribution(**config.timesteps.to_dict()),
        ),
        save_every_steps=config.checkpoint.every_steps,
        on_nonfinite=t.on_nonfinite,
        keep=KeepSettings(
            last=config.checkpoint.max_to_keep,
            every_steps=config.checkpoint.keep_every_steps,
            best_of=config.checkpoint.keep_best_of,
        ),
        log_every_steps=config.log.every_steps,
        samples_every_steps=config.log.samples_every_steps,
        evaluate_every_steps=config.eval.every_steps,
        wandb_project=config.log.wandb_project,
    )


def make_pipeline_settings(config: Config, *, vae_id: str = "") -> PipelineSettings:
    """Return the data pipeline's settings, from the mixture if set, else latents, else records.

    With a mixture, `records` is its first folder, which evaluation reads.
    """
    mixture = parse_mixture(config.data.mixture)
    folder = mixture[0][0] if mixture else config.data.latents or config.data.records
    if not folder:
        raise OmfaError(
            "no training data: give --config.data.records=DIR (made by `omfa data build`)"
            " or --config.data.latents=DIR (made by `omfa data latents`)"
        )
    return PipelineSettings(
        records=folder,
        slots={name: tuple(config.canvas[name]) for name in COMPONENTS},
        vae_id=vae_id if uses_latents(config) else "",
        pose_style=config.data.pose_style,
        threads=config.data.threads,
        prefetch_batches=config.data.prefetch,
        mixture=mixture,
        multi_pose_prob=config.data.multi_pose_prob,
        augment=AugmentSettings(**config.data.augment.to_dict()),
        sample_latents=config.data.sample_latents,
        processes=config.data.processes,
    )


def uses_latents(config: Config) -> bool:
    """Return whether training reads latents instead of images."""
    mixture = parse_mixture(config.data.mixture)
    if mixture:
        return read_manifest(mixture[0][0])["kind"] == "latents"
    return bool(config.data.latents)


def make_mesh_settings(config: Config) -> MeshSettings:
    """Return the mesh's shape."""
    return MeshSettings(**config.mesh.to_dict())


def make_sampler_settings(config: Config) -> SamplerSettings:
    """Return the sampler's settings."""
    return SamplerSettings(**config.sample.to_dict())


def make_evaluation_settings(config: Config) -> EvaluationSettings:
    """Return the settings of the evaluation during training."""
    e = config.eval
    return EvaluationSettings(
        split=e.split,
        seed=e.seed,
        loss_examples=e.loss_examples,
        loss_timesteps=e.loss_timesteps,
        examples=e.examples,
        tasks=tuple(e.tasks),
        sampler=dataclasses.replace(make_sampler_settings(config), steps=e.steps),
        image_records=config.data.records,
        compute_dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )
