"""Metrics of the steps since the last row of the log: their means, and the first non-finite one."""

import time
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.parallel.shared_workdir import name_process
from omfa_jax.train.gradient import NONFINITE

SHOWN_RECORDS, SHOWN_PROCESSES = 16, 8
# how long a process whose records are not to blame leaves the word to the others
YIELD_S = 1.5
# metrics of some of a batch's examples, which are NaN if the batch has none of them
PARTIAL = ("loss/", "loss_at/")


class MetricsBuffer:
    """Collects the steps' metrics on the device until a row of the log is due.

    `skips`: steps with a non-finite loss or gradient changed nothing (see `make_step`); they are
    counted and left out of the means. Otherwise the first of them is an OmfaError. `process_parts`:
    the parts of a batch by process (`find_process_parts`), and `process`: this one.
    """

    def __init__(
        self,
        *,
        skips: bool,
        process_parts: Mapping[int, Collection[int]] | None = None,
        process: int = 0,
    ):
        self._skips = skips
        self._parts, self._process = process_parts or {}, process
        self._steps: list[tuple[int, Mapping[str, jax.Array], np.ndarray]] = []
        self._skipped = 0
        self._before: Mapping[str, jax.Array] = {}

    def add(self, step: int, metrics: Mapping[str, jax.Array], records: np.ndarray) -> None:
        """Add a step's metrics and this process's records in it; wait for the previous step.

        The wait bounds how far the host runs ahead. The step just dispatched keeps the device
        busy meanwhile, so the device never waits for the host.
        """
        self._steps.append((step, metrics, records))
        jax.block_until_ready(self._before)
        self._before = metrics

    def pop_means(self, saved: int, workdir: AnyPath) -> dict[str, float]:
        """Return the means since the last call; `saved` is the step of the last checkpoint."""
        steps, self._steps = self._steps, []
        rows = [metrics for _, metrics, _ in steps]
        stacked = jax.device_get(jax.tree.map(lambda *values: jnp.stack(values), *rows))
        good = np.isfinite(stacked["loss"]) & np.isfinite(stacked["grad_norm"])
        bad = np.flatnonzero(~good)
        if bad.size and not (self._skips and good.any()):
            step, _, records = steps[bad[0]]
            flags = stacked.get(NONFINITE)
            parts = set() if flags is None else set(np.flatnonzero(flags[bad[0]]).tolist())
            raise OmfaError(
                f"step {step}: the loss is {stacked['loss'][bad[0]]} and the gradient norm"
                f" {stacked['grad_norm'][bad[0]]} ({len(bad)} of the last {len(steps)} steps)."
                f" {self._describe_origin(parts, records)} The last checkpoint in"
                f" {workdir} is of step {saved}, before it. Inspect those records, lower"
                " config.optimizer.learning_rate, or skip such steps with"
                " config.train.on_nonfinite=skip"
            )
        self._skipped += bad.size
        stacked.pop(NONFINITE, None)
        means = {name: _mean(name, values[good]) for name, values in stacked.items()}
        return means | ({"skipped_steps": float(self._skipped)} if self._skips else {})

    def _describe_origin(self, parts: set[int], records: np.ndarray) -> str:
        """Return whose records gave a non-finite loss; `parts` of the batch had it.

        Other processes than those wait, so that theirs is the message with which the job ends.
        """
        mine = sorted(self._parts.get(self._process, ()))
        hit = [place for place, part in enumerate(mine) if part in parts]
        if parts and len(self._parts) > 1 and not hit:
            had = sorted(index for index, own in self._parts.items() if parts & set(own))
            time.sleep(YIELD_S)
            named = ", ".join(map(name_process, had[:SHOWN_PROCESSES]))
            return f"It came from the records of {named}, whose log names them."
        if hit and len(hit) < len(mine) and len(records) % len(mine) == 0:
            records = np.concatenate([np.split(records, len(mine))[place] for place in hit])
        # a gradient that overflows is summed over all processes before anybody could look at it
        which = "Its batch was" if not hit or len(parts) == _count(self._parts) else "It came from"
        return f"{which} records {_format_ids(records)} of {name_process(self._process)}."


def _count(process_parts: Mapping[int, Collection[int]]) -> int:
    return len({part for parts in process_parts.values() for part in parts})


def _mean(name: str, values: np.ndarray) -> float:
    kept = values[~np.isnan(values)] if name.startswith(PARTIAL) else values
    return float(kept.mean()) if kept.size else float("nan")


def _format_ids(records: np.ndarray) -> str:
    shown = ", ".join(map(str, records[:SHOWN_RECORDS].tolist()))
    return f"[{shown}{', ...' if len(records) > SHOWN_RECORDS else ''}]"
