"""What a folder of results was made with, compared with what a new run asks for."""

import json
from collections.abc import Mapping
from typing import Any


def describe_changes(before: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return what differs between two runs, as "NAME: was A, now B; ..."; "" if nothing does."""
    # through JSON, so that tuples compare equal to the lists that were read
    now = json.loads(json.dumps(dict(asked)))
    names = sorted({*before, *now})
    return "; ".join(
        f"{name}: was {before.get(name)}, now {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    )
