"""The saved position of a training iterator: the number of batches that were consumed."""

from typing import Any

from omfa_jax.core.errors import OmfaError

POSITION = "next_index"


def batches_consumed(state: Any) -> int:
    """Return the number of batches that an iterator's state (JSON) stands for.

    Raises OmfaError for anything but {"next_index": a whole number from 0 on}.
    """
    found = state.get(POSITION) if isinstance(state, dict) else None
    # True and False are ints
    if type(found) is not int or found < 0:
        raise OmfaError(
            f"data position: expected {{{POSITION!r}: batches}}, got {str(state)[:200]}"
        )
    return found
