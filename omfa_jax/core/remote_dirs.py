"""Folders in object storage that appear whole: the first file of their patterns is written last.

A store cannot rename a folder. The folder is made on this machine and uploaded, and its mark, the
file that every reader of such a folder asks for first, comes last; what a kill leaves has no mark,
and the next write replaces it. When a folder is replaced its mark goes first: a kill between the
two leaves none of them readable, and never a mixture.
"""

import contextlib
import fnmatch
import logging
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.remote_path import RemotePath

log = logging.getLogger(__name__)

_UPLOADS = 8
_LARGE_BYTES = 100_000_000


@contextlib.contextmanager
def remote_dir(
    place: RemotePath, patterns: Sequence[str], marks: Sequence[str] = ()
) -> Iterator[Path]:
    """Yield a folder of this machine, which replaces `place` only if the block succeeds.

    It is in TMPDIR, which needs room for it. What is at `place` must match `patterns`, before and
    after the block; otherwise it stays as it is and an OmfaError is raised. `marks` are further
    files without which no reader accepts the folder: they are deleted and written with the mark.
    """
    require_own_objects(place, patterns)
    with tempfile.TemporaryDirectory(prefix="omfa-") as temporary:
        folder = Path(temporary) / place.name
        folder.mkdir()
        yield folder
        try:
            _replace(place, folder, patterns, marks)
        except OSError as error:
            raise OmfaError(f"cannot write {place}: {error.strerror or error}") from error


def require_own_objects(place: RemotePath, patterns: Sequence[str]) -> list[str]:
    """Return the names of the objects below `place`; OmfaError if one matches no pattern.

    As in `atomic_dirs`, `*` does not match a slash. The mark may be missing: a killed write.
    """
    if not place.key:
        raise OmfaError(f"{place} is a whole bucket; give a folder in it to --out")
    try:
        found = list(place.list_tree())
        is_object = not found and place.is_file()
    except FileNotFoundError:
        return []
    if is_object:
        raise OmfaError(f"{place} is not a folder; give another name to --out")
    foreign = [name for name in found if not any(match_name(name, one) for one in patterns)]
    if foreign:
        raise OmfaError(
            f"{place} would be replaced, but contains objects that this command did not write"
            f" ({', '.join(foreign[:5])}); move them away or give another folder to --out"
        )
    return found


def _replace(
    place: RemotePath, folder: Path, patterns: Sequence[str], marks: Sequence[str]
) -> None:
    mark = patterns[0]
    former = require_own_objects(place, patterns)
    for name in (mark, *marks):
        if name in former:
            (place / name).unlink(missing_ok=True)
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    if mark not in sizes:
        raise OmfaError(f"{place}: no {mark} was made, without which it is not read")
    if sum(sizes.values()) >= _LARGE_BYTES:
        log.info("uploading %.1f GB to %s", sum(sizes.values()) / 1e9, place)
    with ThreadPoolExecutor(_UPLOADS) as pool:
        uploads = sorted(sizes.keys() - {mark, *marks})
        list(pool.map(lambda name: (place / name).upload(folder / name), uploads))
        gone = set(former) - sizes.keys()
        list(pool.map(lambda name: (place / name).unlink(missing_ok=True), gone))
    for name in (*(name for name in marks if name in sizes), mark):
        (place / name).upload(folder / name)


def upload_folder(folder: Path, place: RemotePath) -> None:
    """Write all files below a local folder to `place`; other objects there stay."""
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        list(pool.map(lambda name: (place / name).upload(folder / name), sorted(names)))


def move_remote(source: RemotePath, target: RemotePath, mark: str) -> None:
    """Copy all objects below `source` to `target`, in the store, and delete them at `source`.

    The object `mark` is copied last and deleted first: at every moment readers that ask for it find
    at most one of the two, and it is whole.
    """
    names = sorted(source.list_tree(), key=lambda name: name == mark)
    with ThreadPoolExecutor(_UPLOADS) as pool:
        list(pool.map(lambda name: (source / name).copy(target / name), names[:-1]))
        for name in names[-1:]:
            (source / name).copy(target / name)
            (source / name).unlink(missing_ok=True)
        list(pool.map(lambda name: (source / name).unlink(missing_ok=True), names[:-1]))


def match_name(name: str, pattern: str) -> bool:
    """Return True if an object's relative name matches; `*` does not match a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
