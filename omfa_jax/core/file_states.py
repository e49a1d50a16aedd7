"""Sizes and times of many files: of object storage one listing for each folder, not one a file."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from omfa_jax.core.object_info import get_change_time
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.core.storage_errors import translate_errors


class FileState(NamedTuple):
    """A file's size in bytes, and the time of its last change in seconds."""

    size_bytes: int
    changed_s: float


def list_file_states(folder: RemotePath) -> dict[str, FileState]:
    """Return {name: state} of the objects directly below `folder`; one listing, empty if none."""
    try:
        with translate_errors(folder):
            rows = folder.fs.ls(str(folder), detail=True)
    except FileNotFoundError:
        return {}
    files = (row for row in rows if row["type"] == "file")
    return {
        PurePosixPath(row["name"]).name: FileState(int(row["size"]), get_change_time(row))
        for row in files
    }


def list_folders(folder: AnyPath) -> list[AnyPath]:
    """Return the folders directly below `folder`, sorted; links are followed."""
    if isinstance(folder, RemotePath):
        return [folder / name for name, size in folder.list_sizes() if size is None]
    return sorted(path for path in folder.iterdir() if path.is_dir())


class FileStates:
    """The states of files of object storage, by one listing of each of their folders."""

    def __init__(self) -> None:
        self._folders: dict[RemotePath, dict[str, FileState]] = {}

    def get(self, paths: Iterable[RemotePath]) -> dict[RemotePath, FileState | None]:
        """Return {path: state, None for a file that is not there}."""
        return {path: self.find(path) for path in paths}

    def find(self, path: AnyPath) -> FileState | None:
        """Return the state of a file, which may be of this machine; None if it is not there."""
        if isinstance(path, RemotePath):
            return self._list(path.parent).get(path.name)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return FileState(status.st_size, status.st_mtime)

    def _list(self, folder: RemotePath) -> dict[str, FileState]:
        if folder not in self._folders:
            self._folders[folder] = list_file_states(folder)
        return self._folders[folder]
