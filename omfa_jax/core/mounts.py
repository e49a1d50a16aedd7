"""Mount points inside a folder, which must be found before it is replaced, and file systems."""

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


def find_file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, such as ext4, nfs4, lustre or fuse.gcsfuse.

    "" if the system does not say.
    """
    place, kind, length = os.path.realpath(folder), "", -1
    for row, mount in zip(_read_rows(), _mounts(), strict=True):
        if f"{place}/".startswith(f"{mount.rstrip('/')}/") and len(mount) >= length:
            # after a lone hyphen, for the number of columns before it varies
            rest = row[row.index(b"-") + 1 :] if b"-" in row else [b""]
            kind, length = os.fsdecode(rest[0]), len(mount)
    return kind


def _mounts() -> list[str]:
    places = [row[_PLACE] for row in _read_rows()]
    # the kernel escapes spaces, newlines and backslashes as three octal digits
    return [os.fsdecode(re.sub(rb"\\([0-7]{3})", _character, place)) for place in places]


def _read_rows() -> list[list[bytes]]:
    try:
        lines = _TABLE.read_bytes().splitlines()
    except OSError:
        return []
    return [line.split(b" ") for line in lines if line.count(b" ") >= _PLACE]


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])
