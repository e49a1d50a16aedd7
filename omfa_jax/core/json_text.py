"""JSON that others wrote."""

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return `json.loads(text, **options)`; ValueError for any text that it cannot parse."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None
