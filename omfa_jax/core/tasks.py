"""The task table: which components of the joint input a task noises, that is, generates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.value_rules import FloatRange, check_fields

COMPONENTS: tuple[str, ...] = ("garment", "person", "face")
# valid sampling weights
WEIGHT_RULE = FloatRange(0, 1e6)


@dataclass(frozen=True)
class Task:
    """One row of the table: `noised` components are generated, the others are given.

    `weight` is the task's relative share of training examples; `prompt` is the text whose embedding
    the UNet's cross-attention sees. The fields are keys of omfa.json.
    """

    name: str
    noised: tuple[str, ...]
    weight: float
    prompt: str

    def __post_init__(self) -> None:
        for component in self.noised:
            if component not in COMPONENTS:
                raise make_unknown_name_error(
                    f"component in task {self.name!r}", component, COMPONENTS
                )
        if not self.noised:
            raise OmfaError(f"task {self.name!r} noises no component; give it at least one")
        check_fields(f"task {self.name!r}: ", {"weight": WEIGHT_RULE}, self)


def make_noised_table(tasks: Sequence[Task]) -> Bool[np.ndarray, "tasks 3"]:
    """Return the table as an array, True where a task (row) noises a component (column)."""
    return np.array([[c in task.noised for c in COMPONENTS] for task in tasks], dtype=bool)


def find_task_index(tasks: Sequence[Task], name: str) -> int:
    """Return the row of task `name`; OmfaError with a hint at the nearest name if there is none."""
    names = [task.name for task in tasks]
    if name not in names:
        raise make_unknown_name_error("task", name, names)
    return names.index(name)
