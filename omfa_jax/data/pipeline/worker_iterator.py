"""A resumable iterator over batches that worker processes decode."""

from collections.abc import Callable
from typing import Any

import grain

from omfa_jax.data.pipeline.batch import Batch
from omfa_jax.data.pipeline.iterator_state import STATE_KEY, get_batches_consumed


class ResumableWorkerIterator:
    """Iterate over `open_from(n)`, the batches from number n on; the state is the batches consumed.

    Grain's own state of a pipeline with worker processes stores the position of each worker, so it
    can be restored with the same number of workers only. This state fits any number, and pipelines
    without workers.
    """

    def __init__(self, open_from: Callable[[int], grain.DatasetIterator[Batch]]):
        self._open_from = open_from
        self._iterator: grain.DatasetIterator[Batch] | None = None
        self._consumed = 0

    def __iter__(self) -> "ResumableWorkerIterator":
        return self

    def __next__(self) -> Batch:
        # on first use, not in __init__: a restored run sets its position before
        if self._iterator is None:
            self._iterator = self._open_from(self._consumed)
        batch = next(self._iterator)
        self._consumed += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Return the position, JSON-serializable."""
        return {STATE_KEY: self._consumed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume at the position of `state`; workers restart with the next batch."""
        position = get_batches_consumed(state)
        self.close()
        self._consumed = position

    def close(self) -> None:
        """Stop the workers; the next batch restarts them."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
