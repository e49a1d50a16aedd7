"""Batches made by worker processes whose saved position is still the number of batches consumed."""

from collections.abc import Callable
from typing import Any

import grain

from omfa_jax.data.decode import Batch
from omfa_jax.data.position import POSITION, batches_consumed


class ProcessBatches:
    """An iterator over `open_from(n)`, the batches from number n on, that counts what it gave.

    Grain's own state of a pipeline with worker processes holds each worker's part, and so fits one
    number of workers; this one fits any, and pipelines without workers too.
    """

    def __init__(self, open_from: Callable[[int], grain.DatasetIterator[Batch]]):
        self._open_from = open_from
        self._iterator: grain.DatasetIterator[Batch] | None = None
        self._consumed = 0

    def __iter__(self) -> "ProcessBatches":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._open_from(self._consumed)
        batch = next(self._iterator)
        self._consumed += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Return the JSON-able position."""
        return {POSITION: self._consumed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; workers start anew with the next batch."""
        position = batches_consumed(state)
        self.close()
        self._consumed = position

    def close(self) -> None:
        """Stop the workers; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
