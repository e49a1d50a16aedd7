"""Atomic writes of folders that replace only folders written by the same command.

What may be deleted is given by patterns of relative paths, such as
`("omfa_import.json", "params/*.safetensors")`; `*` does not match a `/`. The first pattern is a
file that no other program writes. A folder is replaceable ("ours") if it is a real folder of this
user, contains that file, and every entry matches a pattern; an empty folder is ours too. Links,
mount points and other users' files never are, because this package creates none.
"""

import contextlib
import fnmatch
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from omfa_jax.core.atomic_files import get_umask
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.local_paths import require_local
from omfa_jax.core.mounts import find_mount
from omfa_jax.core.paths import RemotePath, is_remote
from omfa_jax.core.remote_dirs import remote_dir

log = logging.getLogger(__name__)

_OTHER = "move it away or give another folder to --out"


@contextlib.contextmanager
def atomic_dir(
    path: str | os.PathLike, patterns: Sequence[str], *, marks: Sequence[str] = ()
) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; it replaces `path` only if the block succeeds.

    An existing folder must be ours, both before and after the block; otherwise it stays unchanged
    and an OmfaError is raised. A link is followed: its target is replaced and the link is kept.
    Of object storage see `remote_dirs.remote_dir`; `marks` are for it alone.
    """
    if is_remote(path):
        with remote_dir(RemotePath(path), patterns, marks) as temporary:
            yield temporary
        return
    place = resolve_target(path)
    listed = require_own_output(place, patterns)
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name[:40]}-", dir=place.parent))
        require_same_owner(place, listed, _owner(temporary))
        yield temporary
        temporary.chmod(0o777 & ~get_umask())
        replace_dir(temporary, place, patterns, temporary.with_name(f"{temporary.name}-old"))
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.lexists(temporary):
            delete_matching(temporary, patterns)


def replace_dir(made: Path, place: Path, patterns: Sequence[str], aside: Path) -> None:
    """Rename the folder `made` to `place`, replacing an existing folder of ours.

    The existing one is first renamed to `aside`, where no other process can exchange it, and
    checked there; if it is not ours it is renamed back and an OmfaError is raised. Only the files
    listed by the check are deleted: what another process adds meanwhile stays at `aside`, with a
    warning. All three paths must be on one file system.
    """
    if not os.path.lexists(place):
        # rename(2) refuses to replace a file or a folder that is not empty
        made.rename(place)
        return
    require_replaceable(place)
    place.rename(aside)
    try:
        listed = require_own_output(aside, patterns, place)
        require_same_owner(aside, listed, _owner(made), place)
        made.rename(place)
    except BaseException:
        _put_back(aside, place)
        raise
    delete_entries(aside, listed)


def resolve_target(path: str | os.PathLike, flag: str = "--out") -> Path:
    """Return the absolute path of a folder to write, without links, `.` and `..`.

    A check now and a write later then refer to the same folder, whatever is created in between.
    OmfaError for a folder that can never be replaced (see `require_replaceable`).
    """
    given = os.fspath(path)
    if not given or "\0" in given:
        raise OmfaError(f"{flag}: expected the name of a folder, got {given!r}")
    require_local(given, flag)
    place = Path(os.path.realpath(given))
    require_replaceable(place, flag)
    return place


def require_replaceable(place: Path, flag: str = "--out") -> None:
    """Raise an OmfaError for a folder that must not be replaced, whatever it contains.

    These are the root and any folder that is or contains a mount point, the current folder or the
    home folder.
    """
    if not os.path.lexists(place):
        return
    known = {"the current folder": os.getcwd, "the home folder": Path.home}
    for name, find in known.items():
        # the current folder may have been deleted, and a user without a passwd entry has no home
        with contextlib.suppress(OSError, RuntimeError):
            if contains(place, find()):
                raise OmfaError(f"{place} is or contains {name}; give a separate folder to {flag}")
    _require_no_mount(place, place, flag)


def require_disjoint(
    path: str | os.PathLike, sources: Mapping[str, str | os.PathLike | None], flag: str = "--out"
) -> None:
    """Raise an OmfaError if the folder to write is or contains one of `sources`, {flag: path}."""
    for name, source in sources.items():
        if source is not None and _is_or_contains(path, source):
            raise OmfaError(
                f"{flag} {path} is or contains what {name} reads ({source}); give another folder"
                f" to {flag}"
            )


def _is_or_contains(folder: str | os.PathLike, inner: str | os.PathLike) -> bool:
    if is_remote(folder):
        return is_remote(inner) and RemotePath(inner).is_relative_to(RemotePath(folder))
    return not is_remote(inner) and contains(Path(os.path.realpath(folder)), inner)


def contains(folder: Path, inner: str | os.PathLike) -> bool:
    """Return True if `inner` is `folder` or inside it, after links and case folding."""
    # samefile and not a comparison of names: case-insensitive file systems and bind mounts
    place = Path(os.path.realpath(inner))
    for parent in (place, *place.parents):
        with contextlib.suppress(OSError):
            if os.path.samefile(folder, parent):
                return True
    return False


def require_own_output(path: Path, patterns: Sequence[str], named: Path | None = None) -> list[str]:
    """Return the relative paths of the contents of a folder of ours; OmfaError if it is not ours.

    Folders end in `/` and come after their contents. `named` is the folder's name in the error.
    """
    named = named or path
    found = require_known_contents(path, patterns, named)
    if found and not (path / patterns[0]).is_file():
        raise OmfaError(
            f"{named} exists and is not a folder that this command wrote (no {patterns[0]} in it);"
            " give another folder to --out"
        )
    return found


def require_known_contents(
    path: Path, patterns: Sequence[str], named: Path | None = None
) -> list[str]:
    """Like `require_own_output`, for a folder that may lack the first file of `patterns`."""
    named = named or path
    if not os.path.lexists(path):
        return []
    if path.is_symlink() or not path.is_dir():
        raise OmfaError(f"{named} is not a folder; give another name to --out")
    _require_no_mount(path, named)
    found = list_tree(path)
    foreign = sorted(name for name in found if not _is_named(path / name, name, patterns))
    if foreign:
        raise OmfaError(
            f"{named} would be replaced, but contains files that this command did not write"
            f" ({', '.join(foreign[:5])}); {_OTHER}"
        )
    return found


def require_same_owner(
    path: Path, listed: Collection[str], owner: int, named: Path | None = None
) -> None:
    """Raise an OmfaError if a folder, or one of its `listed` entries, is not owned by `owner`.

    `owner` is the owner of a file just created there: on file systems that map users it may differ
    from the user of the process.
    """
    named = named or path
    if not os.path.lexists(path):
        return
    if _owner(path) != owner:
        raise OmfaError(f"{named} belongs to another user: {_OTHER}")
    others = sorted(name for name in listed if _owner(path / name) != owner)
    if others:
        raise OmfaError(
            f"{named} contains another user's files ({', '.join(others[:5])}): {_OTHER}"
        )


def list_tree(folder: Path) -> list[str]:
    """Return the relative paths of a folder's contents; folders end in `/` and come last.

    Links are listed but not followed. OmfaError for a subfolder on another file system.
    """
    found = []
    device = folder.lstat().st_dev

    def fail(error: OSError) -> None:
        raise OmfaError(f"{error.filename}: cannot be listed ({error.strerror})")

    for root, folders, files in os.walk(folder, topdown=False, onerror=fail):
        if os.lstat(root).st_dev != device:
            raise OmfaError(f"{root} is on another file system than {folder}: {_OTHER}")
        inner = Path(root).relative_to(folder)
        found += [str(inner / name) for name in files]
        found += [
            f"{inner / name}{'' if Path(root, name).is_symlink() else '/'}" for name in folders
        ]
    return found


def delete_matching(folder: Path, patterns: Sequence[str]) -> None:
    """Delete what matches `patterns`, then the folder; the rest stays, with a warning."""
    try:
        mount = find_mount(folder)
        if mount is not None:
            raise OmfaError(f"{mount} is a mount point")
        found = list_tree(folder)
    except (OSError, OmfaError) as error:
        log.warning("%s was not deleted: %s", folder, error)
        return
    delete_entries(folder, [name for name in found if _is_named(folder / name, name, patterns)])


def delete_entries(folder: Path, listed: Collection[str]) -> None:
    """Delete the entries that `list_tree` returned, then the folder if nothing else is in it."""
    # rmdir and not rmtree: whatever appeared since the check makes it fail, and is kept
    try:
        for name in listed:
            if name.endswith("/"):
                (folder / name).rmdir()
            else:
                (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        log.warning(
            "%s was not completely deleted (%s): check its contents", folder, error.strerror
        )


def _is_named(path: Path, name: str, patterns: Sequence[str]) -> bool:
    if path.is_symlink():
        return False
    parts = name.rstrip("/").split("/")
    wanted = [pattern.split("/") for pattern in patterns]
    if name.endswith("/"):
        # a parent folder of something that a pattern matches
        wanted = [p[: len(parts)] for p in wanted if len(p) > len(parts)]
    elif not path.is_file():
        return False
    return any(
        len(pattern) == len(parts) and all(map(fnmatch.fnmatchcase, parts, pattern))
        for pattern in wanted
    )


def _require_no_mount(path: Path, named: Path, flag: str = "--out") -> None:
    mount = find_mount(path)
    if mount is None:
        return
    inner = os.path.relpath(mount, os.path.realpath(path))
    if inner == ".":
        raise OmfaError(f"{named} is a mount point; give a folder in it to {flag}")
    raise OmfaError(
        f"{named / inner} is a mount point; unmount it or give another folder to {flag}"
    )


def _owner(path: Path) -> int:
    return path.lstat().st_uid


def _put_back(aside: Path, place: Path) -> None:
    try:
        if os.path.lexists(place):
            raise FileExistsError("another file or folder appeared there")
        aside.rename(place)
    except OSError as error:
        raise OmfaError(
            f"the former contents of {place} were moved to {aside} and remain there: {error}"
        ) from None
