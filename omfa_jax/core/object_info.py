"""What the clients of object storage say about an object, in one form."""

from typing import Any


def get_change_time(info: dict[str, Any]) -> float:
    """Return the seconds of an object's last change, of a row of fsspec's `info` or `ls`."""
    changed: Any = info.get("mtime") or info.get("LastModified") or info.get("updated")
    return changed.timestamp() if hasattr(changed, "timestamp") else 0.0
