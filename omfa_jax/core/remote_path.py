"""Paths of object storage (gs://, s3://) with those methods of `pathlib.Path` that a bucket has.

An object store has no folders, appends, renames or locks: a "folder" is a common prefix of objects,
`mkdir` does nothing, and a written object appears whole or not at all. What the package does about
the rest is in `atomic_files`, `atomic_dirs`, `append_only` and `storage_lock`.

Errors of the stores' clients are raised as OSError with an errno, so that `core.exit_status` sorts
them as it does those of a disk: a permission ends the job, a server that does not answer may be
retried. The clients retry 429, 5xx and broken connections themselves for about half a minute.
"""

import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from omfa_jax.core.errors import require_modules
from omfa_jax.core.object_info import get_change_time
from omfa_jax.core.storage_errors import TranslatingFile, translate_errors

# gcsfs, which reads this once, asks by a second client for hierarchical namespaces at every listing
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# scheme -> (the module that fsspec needs for it, the extra that installs it)
SCHEMES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# longer contents are sent in parts; they appear whole, too
_ONE_REQUEST_BYTES = 900_000
# another process may write: a listing must not come from this one's memory
_FRESH = {"use_listings_cache": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    "gs": {**_FRESH, "requests_timeout": 120},
    "s3": {**_FRESH, "config_kwargs": {"retries": {"max_attempts": 6, "mode": "standard"}}},
}


class RemotePath(PurePosixPath):
    """A path such as gs://bucket/folder/file; joins, `name`, `parent` and `suffix` as in pathlib.

    Raises OmfaError for a scheme that is not in `SCHEMES`, a missing bucket or a missing client.
    """

    # pathlib collapses "gs://b" to "gs:/b" in its parts, and str() must give it back
    def __str__(self) -> str:
        text = super().__str__()
        scheme, colon, rest = text.partition(":/")
        return f"{scheme}://{rest.lstrip('/')}" if colon else text

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def as_posix(self) -> str:
        """Return the URL."""
        return str(self)

    as_uri = as_posix

    def is_absolute(self) -> bool:
        """Return True: a URL does not depend on the current folder."""
        return True

    def absolute(self) -> "RemotePath":
        """Return the path itself."""
        return self

    resolve = expanduser = absolute

    def relative_to(self, other: str | os.PathLike) -> PurePosixPath:  # type: ignore[override]
        """Return the part of the path below `other`."""
        return PurePosixPath(*super().relative_to(other).parts)

    @property
    def scheme(self) -> str:
        """Return "gs" or "s3"."""
        return self.parts[0].rstrip(":")

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Return the object's name in the bucket, without a leading slash."""
        return "/".join(self.parts[2:])

    @property
    def fs(self) -> Any:
        """Return fsspec's file system of the scheme."""
        return _open_file_system(self.scheme, os.getpid())

    def exists(self) -> bool:
        """Return True if there is an object of that name, or one below it."""
        return self._get_kind() != ""

    def is_file(self) -> bool:
        """Return True if there is an object of that name."""
        return self._get_kind() == "file"

    def is_dir(self) -> bool:
        """Return True if there are objects below the path."""
        return self._get_kind() == "directory"

    def _get_kind(self) -> str:
        # not fs.exists and its like, which return False when the store does not answer: a run would
        # start anew, as if there were no checkpoint
        try:
            with translate_errors(self):
                return self.fs.info(str(self))["type"]
        except FileNotFoundError:
            return ""

    def is_symlink(self) -> bool:
        """Return False: there are no links."""
        return False

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield what is directly below the path, sorted; one listing."""
        for name, _ in self.list_sizes():
            yield self / name

    def list_sizes(self) -> list[tuple[str, int | None]]:
        """Return (name, size in bytes; None for a folder) of what is directly below, sorted."""
        with translate_errors(self):
            rows = self.fs.ls(str(self), detail=True)
        found = {}
        for row in rows:
            name = PurePosixPath(row["name"].rstrip("/")).name
            # a placeholder object of the folder itself, as browsers of buckets make
            if row["name"].rstrip("/") != self._fs_name:
                found[name] = None if row["type"] == "directory" else int(row["size"])
        return sorted(found.items())

    def list_tree(self) -> dict[str, int]:
        """Return {relative name: size in bytes} of all objects below the path; one listing."""
        with translate_errors(self):
            rows: dict[str, Any] = self.fs.find(str(self), detail=True)  # type: ignore[assignment]
        start = len(self._fs_name) + 1
        found = {name[start:]: int(row["size"]) for name, row in rows.items()}
        return {name: size for name, size in sorted(found.items()) if name}

    @property
    def _fs_name(self) -> str:
        return "/".join(self.parts[1:])

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield what matches a relative pattern, sorted; `*` does not match a slash."""
        *folders, last = pattern.split("/")
        if any(_is_pattern(part) for part in folders):
            wanted = pattern.split("/")
            for name in self.list_tree():
                parts = name.split("/")
                if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
                    yield self / name
            return
        folder = self.joinpath(*folders)
        with contextlib.suppress(FileNotFoundError):
            yield from (p for p in folder.iterdir() if fnmatch.fnmatchcase(p.name, last))

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield the objects at any depth whose name matches the pattern, sorted."""
        for name in self.list_tree():
            if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name

    def stat(self) -> SimpleNamespace:
        """Return `st_size` in bytes and `st_mtime`, by the server's clock, of an object."""
        with translate_errors(self):
            info = self.fs.info(str(self))
        return SimpleNamespace(st_size=int(info["size"] or 0), st_mtime=get_change_time(info))

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open an object to read ("r", "rb") or to write ("w", "wb"); there is no append.

        What is written appears when the file is closed. Random reads fetch ranges.
        """
        if mode not in ("r", "rb", "w", "wb"):
            raise OSError(errno.ENOTSUP, f"object storage has no mode {mode!r}", str(self))
        with translate_errors(self):
            raw = self.fs.open(str(self), mode.rstrip("b") + "b")
        raw = TranslatingFile(raw, str(self))
        if mode.endswith("b"):
            return raw
        return io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)  # type: ignore[arg-type]

    def read_bytes(self) -> bytes:
        """Return the object's content."""
        with translate_errors(self):
            return bytes(self.fs.cat_file(str(self)))  # type: ignore[arg-type]

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the object's content as text, UTF-8 by default."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:
        """Replace the object's content at once."""
        if len(data) > _ONE_REQUEST_BYTES:
            with self.open("wb") as file:
                return file.write(data)
        with translate_errors(self):
            self.fs.pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None) -> int:
        """Replace the object's content at once."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def create(self, data: bytes) -> bool:
        """Write an object if there is none of that name; return False if there is one.

        The store decides (generation match 0, If-None-Match): of several writers one succeeds.
        """
        try:
            with translate_errors(self):
                self.fs.pipe_file(str(self), data, mode="create")
        except FileExistsError:
            return False
        return True

    def upload(self, file: str | os.PathLike) -> None:
        """Replace the object's content with that of a local file, read in parts."""
        with translate_errors(self):
            self.fs.put_file(os.fspath(file), str(self))

    def download(self, file: str | os.PathLike) -> None:
        """Write the object's content to a local file, in parts."""
        with translate_errors(self):
            self.fs.get_file(str(self), os.fspath(file))

    def copy(self, target: "RemotePath") -> None:
        """Copy the object to `target` of the same kind of store, which does so by itself."""
        with translate_errors(self):
            self.fs.cp_file(str(self), str(target))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; s3:// does not say whether there was one."""
        gone = (FileNotFoundError,) if missing_ok else ()
        with contextlib.suppress(*gone), translate_errors(self):
            self.fs.rm_file(str(self))

    def rmtree(self) -> None:
        """Delete all objects below the path, and one of that name."""
        with contextlib.suppress(FileNotFoundError), translate_errors(self):
            self.fs.rm(str(self), recursive=True)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as there is an object below it."""

    rmdir = mkdir

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Create an empty object if there is none."""
        self.create(b"")


def require_client(scheme: str) -> None:
    """Raise an OmfaError with the install command if the client of a scheme is not installed."""
    module, extra = SCHEMES[scheme]
    require_modules(f"{scheme}://", extra, "fsspec", module)


@functools.lru_cache(maxsize=8)
def _open_file_system(scheme: str, process: int) -> Any:
    # one for each process: the event loop of fsspec's thread does not survive a fork
    require_client(scheme)
    from fsspec import config, filesystem

    # those that other packages open (etils, for Orbax and JAX) must not list from memory either
    for name in ("gs", "gcs", "s3"):
        config.conf.setdefault(name, {}).update(_FRESH)
    # logs a traceback before it raises
    for name in ("gcsfs", "s3fs", "fsspec"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with translate_errors(f"{scheme}://"):
        return filesystem(scheme, **_OPTIONS[scheme])


def _is_pattern(part: str) -> bool:
    return any(character in part for character in "*?[")


AnyPath = Path | RemotePath
