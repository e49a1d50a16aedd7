"""A run that goes on: which of its settings may change, and which would make it another run."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omfa_jax.cli.config import Config
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.retry import retried
from omfa_jax.train.integrity import Damaged, read_config, whole_steps

log = logging.getLogger(__name__)

# what says where weights come from; those of a run that goes on are its checkpoint's
START = (
    *("checkpoint.start_from", "model.init", "model.init_unet", "model.ignore_scheduler"),
    "model.vae",
)
# the data position counts batches of this size in the order of this seed
FIXED = ("objective", "seed", "train.batch_size")


def require_same_run(config: Config, workdir: Path) -> None:
    """Raise an OmfaError if `config` would replay or lose data of the run in `workdir`.

    Other settings may change, a data set's place and the learning rate for instance: the log says
    which did.
    """
    found = newest_config(workdir / "checkpoints")
    if found is None:
        return
    step, saved = found[0], dict(flat(found[1]))
    asked = dict(flat(config.to_dict()))
    changed = [
        f"{name}: {saved[name]} then, {asked[name]} now"
        for name in saved.keys() & asked.keys()
        if saved[name] != asked[name]
    ]
    fatal = sorted(line for line in changed if line.split(":")[0] in FIXED)
    if fatal:
        raise OmfaError(
            f"{workdir} holds a run of {step} steps with another config ({'; '.join(fatal)}): its"
            " data position would mean other examples; use that config or a new --workdir"
        )
    for line in sorted(changed):
        if line.split(":")[0] in START:
            log.warning("config.%s: without effect, the checkpoint's weights stay", line)
        else:
            log.warning("going on with another config.%s", line)


def newest_config(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Return (step, config) of the newest whole checkpoint whose config can be read.

    What else a checkpoint may have lost is found when it is restored, and told then.
    """
    for step in whole_steps(folder, warn=False):
        try:
            place = folder / str(step)
            return step, retried(f"config of {place}", lambda place=place: read_config(place))
        except Damaged:
            continue
    return None


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a nested config; lists and tuples are alike."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, list | tuple) else value
