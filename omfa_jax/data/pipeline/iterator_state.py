"""The saved state of a training iterator: the number of batches consumed."""

from typing import Any

from omfa_jax.core.errors import OmfaError

STATE_KEY = "next_index"


def get_batches_consumed(state: Any) -> int:
    """Return the number of batches consumed according to an iterator's state (JSON).

    Raises OmfaError unless it is {"next_index": a non-negative integer}.
    """
    found = state.get(STATE_KEY) if isinstance(state, dict) else None
    # not isinstance: True and False are ints
    if type(found) is not int or found < 0:
        raise OmfaError(
            f"data position: expected {{{STATE_KEY!r}: number of batches}}, got {str(state)[:200]}"
        )
    return found
