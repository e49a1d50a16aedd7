"""Check a resumed run's config against its checkpoint: which settings may change."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.retry import call_with_retries
from omfa_jax.train.checkpoints.integrity import (
    DamagedCheckpointError,
    list_complete_steps,
    read_config,
)

log = logging.getLogger(__name__)

# where initial weights come from; a resumed run takes its checkpoint's instead
START_KEYS = (
    *("checkpoint.start_from", "model.init", "model.init_unet", "model.ignore_scheduler"),
    "model.vae",
)
# the data position counts batches of this size in the order of this seed
FIXED_KEYS = ("objective", "seed", "train.batch_size")


def require_same_run(config: Mapping[str, Any], workdir: AnyPath) -> None:
    """Raise an OmfaError if `config` would replay or skip data of the run in `workdir`.

    `config` is the complete config as nested dicts. Other settings may change, such as the data
    set's path or the learning rate; each change is logged.
    """
    found = read_newest_config(workdir / "checkpoints")
    if found is None:
        return
    step, saved = found[0], dict(flatten_config(found[1]))
    asked = dict(flatten_config(config))
    # keys that only one of the two versions of the config has are not changes by the user
    changed = [
        f"{name}: {saved[name]} -> {asked[name]}"
        for name in saved.keys() & asked.keys()
        if saved[name] != asked[name]
    ]
    fatal = sorted(line for line in changed if line.split(":")[0] in FIXED_KEYS)
    if fatal:
        raise OmfaError(
            f"{workdir} holds a run of {step} steps with another config ({'; '.join(fatal)}), so"
            " its data position would refer to other examples; use that config or a new --workdir"
        )
    for line in sorted(changed):
        if line.split(":")[0] in START_KEYS:
            log.warning("config.%s: no effect, the checkpoint's weights are used", line)
        else:
            log.warning("resuming with a changed config.%s", line)


def read_newest_config(folder: AnyPath) -> tuple[int, dict[str, Any]] | None:
    """Return (step, config) of the newest complete checkpoint whose config can be read.

    Other damage to a checkpoint is found and reported when it is restored.
    """
    for step in list_complete_steps(folder, warn=False):
        try:
            place = folder / str(step)
            return step, call_with_retries(
                f"config of {place}", lambda place=place: read_config(place)
            )
        except DamagedCheckpointError:
            continue
    return None


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a nested config; tuples become lists, as JSON has them."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten_config(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, list | tuple) else value
