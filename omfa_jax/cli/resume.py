"""A run that goes on: which of its settings may change, and which would make it another run."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omfa_jax.cli.config import Config
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.retry import retried
from omfa_jax.train.checkpoint import newest_whole_step, read_config

log = logging.getLogger(__name__)

# the data position counts batches of this size in the order of this seed
FIXED = ("objective", "seed", "train.batch_size")


def require_same_run(config: Config, workdir: Path) -> None:
    """Raise an OmfaError if `config` would replay or lose data of the run in `workdir`.

    Other settings may change, a data set's place and the learning rate for instance: the log says
    which did.
    """
    folder = workdir / "checkpoints"
    step = newest_whole_step(folder, warn=False)
    if step is None:
        return
    place = folder / str(step)
    saved = dict(flat(retried(f"config of {place}", lambda: read_config(place))))
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
        log.warning("going on with another config.%s", line)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a nested config; lists and tuples are alike."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, list | tuple) else value
