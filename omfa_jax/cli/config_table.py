"""The schema of the config: a rule for each value, all checked before anything starts.

A `*` in a name matches any name: `tasks.*.weight` is the weight of every row of the task table.
"""

import fnmatch
import re
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from omfa_jax.body.pose_styles import STYLES
from omfa_jax.core.errors import OmfaError, make_unknown_name_error, raise_all
from omfa_jax.core.tasks import COMPONENTS, WEIGHT_RULE
from omfa_jax.core.value_rules import (
    SEED_RULE,
    Boolean,
    Choice,
    FloatRange,
    IntRange,
    LocalPath,
    Rule,
    Text,
    TupleOf,
    check_value,
    format_value,
)
from omfa_jax.data.pipeline.augment import AUGMENT_BOUNDS
from omfa_jax.diffusion.canvas import LAYOUTS
from omfa_jax.diffusion.denoising_loop import SAMPLER_RULES
from omfa_jax.diffusion.partial import INPUTS, PREDICTION_TYPES
from omfa_jax.diffusion.schedule import SCHEDULE_RULES, TIMESTEP_RULES
from omfa_jax.evals.heldout_loss import NOISE_LEVELS
from omfa_jax.models.presets import UNETS, VAES
from omfa_jax.parallel.attention_kernels import ATTENTION_KERNELS
from omfa_jax.train.config_keys import RENAMED_KEYS
from omfa_jax.train.settings import KEEP, LOSS, OPTIMIZER, TRAIN

OBJECTIVES = ("partial_diffusion", "autoencoder")
# pixels of a slot's side; no accelerator holds the activations of a larger image
SIDE_PX = IntRange(8, 16384)
# no host has as many cores: more threads or processes are a typing error
WORKERS = IntRange(0, 4096)
# devices along a mesh axis; -1 = all that are left
AXIS = IntRange(1, 2**20, or_value=-1)


def _qualify_rules(group: str, rows: Mapping[str, Rule], *names: str) -> dict[str, Rule]:
    return {f"{group}.{name}": rows[name] for name in names or rows}


TABLE: dict[str, Rule] = {
    "objective": Choice(OBJECTIVES),
    "seed": SEED_RULE,
    "model.unet": Choice(UNETS),
    "model.vae": Choice(VAES),
    "model.init": LocalPath(allow_storage=True),
    "model.init_unet": Boolean(),
    "model.ignore_scheduler": Boolean(),
    "model.reference": Boolean(),
    "tasks.*.noised": TupleOf(Choice(COMPONENTS), 1, len(COMPONENTS), unique=True),
    "tasks.*.weight": WEIGHT_RULE,
    "tasks.*.prompt": Text(),
    "canvas.layout": Choice(LAYOUTS),
    **{f"canvas.{name}": TupleOf(SIDE_PX, 2, 2) for name in COMPONENTS},
    "diffusion.unet_inputs": TupleOf(Choice(INPUTS), 1, len(INPUTS), unique=True),
    "diffusion.prediction": Choice(PREDICTION_TYPES),
    **_qualify_rules("diffusion", SCHEDULE_RULES, "zero_terminal_snr", "spacing", "steps_offset"),
    **_qualify_rules("diffusion", LOSS),
    **_qualify_rules("timesteps", TIMESTEP_RULES),
    "data.records": LocalPath(allow_storage=True),
    "data.latents": LocalPath(allow_storage=True),
    "data.mixture": LocalPath(separator=",", allow_storage=True),
    "data.split": Text(),
    "data.pose_style": Choice(STYLES),
    "data.threads": WORKERS,
    "data.prefetch": IntRange(1, 65536),
    "data.processes": WORKERS,
    "data.multi_pose_prob": FloatRange(0, 1),
    "data.sample_latents": Boolean(),
    **_qualify_rules("data.augment", AUGMENT_BOUNDS),
    **_qualify_rules(
        "train", TRAIN, "steps", "batch_size", "grad_accum_steps", "compute_dtype", "remat"
    ),
    **_qualify_rules("train", TRAIN, "ema_decay", "on_nonfinite"),
    "train.attention": Choice(ATTENTION_KERNELS),
    **_qualify_rules("optimizer", OPTIMIZER),
    **{f"mesh.{axis}": AXIS for axis in ("data", "fsdp", "tensor", "slice")},
    "mesh.allow_replicated": Boolean(),
    "checkpoint.every_steps": TRAIN["save_every_steps"],
    "checkpoint.max_to_keep": KEEP["last"],
    "checkpoint.keep_every_steps": KEEP["every_steps"],
    "checkpoint.keep_best_of": KEEP["best_of"],
    "checkpoint.start_from": LocalPath(allow_storage=True),
    "log.every_steps": TRAIN["log_every_steps"],
    "log.samples_every_steps": TRAIN["samples_every_steps"],
    "log.samples": IntRange(1, 4096),
    "log.wandb_project": TRAIN["wandb_project"],
    "eval.every_steps": TRAIN["evaluate_every_steps"],
    "eval.split": Text(),
    "eval.seed": SEED_RULE,
    "eval.loss_examples": IntRange(1),
    "eval.loss_timesteps": IntRange(NOISE_LEVELS, 1000, multiple_of=NOISE_LEVELS),
    "eval.examples": IntRange(),
    "eval.tasks": TupleOf(Text(), 0, 1000, unique=True),
    "eval.steps": SAMPLER_RULES["steps"],
    "autoencoder.crop_px": SIDE_PX,
    "autoencoder.latent_noise": FloatRange(0, 100),
    "autoencoder.decoder_of": LocalPath(allow_storage=True),
    **_qualify_rules("sample", SAMPLER_RULES),
}


# keys added after studies had saved complete configs, with the value that was implied before
ADDED_KEYS: dict[str, Any] = {"model.ignore_scheduler": False, "mesh.allow_replicated": False}
GROUPS = {key.rsplit(".", levels)[0] for key in TABLE for levels in (1, 2) if "." in key}


def find_row(name: str) -> Rule | None:
    """Return the row for a dotted name, None if there is none."""
    patterns = (key for key in TABLE if "*" in key and _matches(name, key))
    return TABLE.get(name) or next((TABLE[key] for key in patterns), None)


def check_config(config: Any) -> None:
    """Check every value of a config, and convert it to its row's type, such as int to float.

    A single OmfaError has a line for each error: a value of the wrong type or out of range, an
    unknown name, a missing name.
    """
    update_old_config(config)
    try:
        found = dict(list_leaves(config))
    except RequiredValueError as error:
        raise OmfaError(f"config: a required value is not set: {error}") from None
    faults = [
        error for name, value in found.items() if (error := _make_error(name, value)) is not None
    ]
    faults += [
        OmfaError(f"config.{name} is missing: start from base.get_config() (configs/base.py)")
        for name in _find_missing(found)
    ]
    raise_all(faults)
    # converted only if all values are valid
    for name, value in found.items():
        row = find_row(name)
        assert row is not None
        wanted = row.read(value)
        # a value of the right type stays: it may be a reference to another one
        if repr(wanted) != repr(value):
            *groups, last = name.split(".")
            node: Any = config
            for group in groups:
                node = node[group]
            # delete first: assigning a tuple over a list would convert it to a list
            with node.unlocked():
                del node[last]
                node[last] = wanted
    # after the rows of the table, which make each weight a number
    if not sum(row.weight for row in config.tasks.values()) > 0:
        raise OmfaError(
            "config.tasks: all weights are 0: at least one task must have a positive weight"
        )


def update_old_config(config: ConfigDict) -> None:
    """Update a complete config of an older version, such as a study's: rename keys, add new ones.

    A config that has the new name of a key as well is not an old one: its old key stays, and
    `check_config` refuses it.
    """
    for old, new in RENAMED_KEYS.items():
        *groups, old_name = old.split(".")
        new_name = new.rpartition(".")[2]
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, ConfigDict) else None
        if isinstance(node, ConfigDict) and old_name in node and new_name not in node:
            with node.unlocked():
                node[new_name] = node[old_name]
                del node[old_name]
    for name, value in ADDED_KEYS.items():
        group, key = name.split(".")
        node = config.get(group)
        if isinstance(node, ConfigDict) and key not in node:
            with node.unlocked():
                node[key] = value


def list_leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of each value of a config, depth first."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, ConfigDict) and len(value) and find_row(name) is None:
            yield from list_leaves(value, f"{name}.")
        else:
            yield name, value


def _make_error(name: str, value: Any) -> OmfaError | None:
    row = find_row(name)
    if row is not None:
        return check_value(f"config.{name}", row, value)
    if name in RENAMED_KEYS:
        return make_renamed_key_error(name)
    if any(_matches(name, group) for group in GROUPS):
        return OmfaError(f"config.{name}: expected a group of values, got {format_value(value)}")
    group = name.rpartition(".")[0]
    beside = [key for key in TABLE if _matches(group, key.rpartition(".")[0])]
    return make_unknown_name_error(
        "value", f"config.{name}", [f"config.{key}" for key in beside or GROUPS]
    )


def make_renamed_key_error(name: str) -> OmfaError:
    """Return the error for a key that has another name now."""
    return OmfaError(f"config.{name} has been renamed to config.{RENAMED_KEYS[name]}")


def find_renamed_key(error: BaseException) -> str | None:
    """Return the old key whose use on a locked ConfigDict raised `error`, or None."""
    if not isinstance(error, AttributeError | KeyError):
        return None
    # 'Key "flip" does not exist and cannot be added ...' when set, "'flip'" when read
    found = re.match(r"\W*(?:Key \W*)?(\w+)\b", str(error))
    # the message does not name the group: it is the innermost ConfigDict of the traceback
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    groups = [owner for owner in frames if isinstance(owner, ConfigDict)]
    if found is None or not groups:
        return None
    for old, new in RENAMED_KEYS.items():
        if old.rpartition(".")[2] == found[1] and new.rpartition(".")[2] in groups[-1]:
            return old
    return None


def _find_missing(found: Collection[str]) -> list[str]:
    """Return the table's names that the config lacks; a group that is a value counts as one."""
    tasks = sorted({name.split(".")[1] for name in found if name.startswith("tasks.")}) or ["*"]
    keys = [key.replace("*", task) for key in TABLE for task in (tasks if "*" in key else [""])]
    there = {".".join(name.split(".")[:levels]) for name in found for levels in (1, 2, 3)}
    groups = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    replaced = {group for group in groups if group in found}
    return [
        key
        for key in keys
        if key not in there and not any(key.startswith(f"{group}.") for group in replaced)
    ]


def _matches(name: str, key: str) -> bool:
    return name.count(".") == key.count(".") and fnmatch.fnmatchcase(name, key)
