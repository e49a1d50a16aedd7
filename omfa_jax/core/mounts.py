"""Mount points inside a folder, which must be found before the folder is replaced or deleted."""

import os
import re
from pathlib import Path

# Linux's mount table, and its column of mount points; see proc_pid_mountinfo(5)
_TABLE = Path("/proc/self/mountinfo")
_PLACE = 4


def find_mount(folder: Path) -> str | None:
    """Return the first mount point that is the folder or is inside it, at any depth, or None.

    Bind mounts of folders and of files within one file system are found too. On systems without
    Linux's table only the folder itself is checked; `atomic_dirs.list_tree` then compares devices.
    """
    place = os.path.realpath(folder)
    inner = place.rstrip("/") + "/"
    found = [mount for mount in _mounts() if mount == place or mount.startswith(inner)]
    return min(found) if found else place if os.path.ismount(place) else None


def _mounts() -> list[str]:
    try:
        lines = _TABLE.read_bytes().splitlines()
    except OSError:
        return []
    places = [line.split(b" ")[_PLACE] for line in lines if line.count(b" ") >= _PLACE]
    # the kernel escapes spaces, newlines and backslashes as three octal digits
    return [os.fsdecode(re.sub(rb"\\([0-7]{3})", _character, place)) for place in places]


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])
