"""Mount points: what lies behind them is somebody else's, whichever folder they are in."""

import os
import re
from pathlib import Path

# Linux's list of them; see proc_pid_mountinfo(5)
_TABLE = Path("/proc/self/mountinfo")
_PLACE = 4


def mount_in(folder: Path) -> str | None:
    """Return the first mount point that is the folder or lies in it, at any depth; None if none.

    Sees binds within one file system too, of folders and of files. A system without Linux's table
    tells of the folder itself alone: `folders.listing` has a look at the devices in it.
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
    # blanks, line breaks and backslashes are written as three octal digits
    return [os.fsdecode(re.sub(rb"\\([0-7]{3})", _character, place)) for place in places]


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])
