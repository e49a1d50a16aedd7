"""The one check that a text given by a user can be a path: of this machine, or of object storage.

`pathlib` reads "gs://bucket/run" as the relative folder "gs:/bucket/run": without this check a
command would create that folder and report success. See `core.paths` for the paths themselves.
"""

import os
import re

from omfa_jax.core.errors import OmfaError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# what pathlib and os.path.normpath make of a URL
_COLLAPSED = re.compile(
    r"(gs|gcs|s3|s3a|s3n|hf|https?|ftps?|sftp|ssh|file|abfss?|azure|az|wasbs?|adl|hdfs|webhdfs|dbfs"
    r"|oci|oss|cos|obs|r2|b2|swift|memory|tfds|wandb):/",
    re.IGNORECASE,
)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})(?=/|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_ADVICE = {
    "file": "write the path without file://",
    "http": "download it and give the local file",
    "https": "download it and give the local file",
    "hf": "download it (`hf download`) and give the local folder",
}
# object storage that the package reads and writes
STORAGE_SCHEMES = ("gs", "s3")
_STORE = "copy it to a disk or mount it, and give that path"


_HOME = re.compile(r"~([\w.-]+)(?=/|$)")


def find_path_fault(text: str, *, allow_storage: bool = False) -> str | None:
    """Return why `text` cannot be the path of a file or folder of this machine, or None.

    `allow_storage`: URLs of a folder or file in a bucket (`remote_path.SCHEMES`) are paths, too.
    """
    if not text.strip():
        return "it is empty; is a shell variable unset?"
    scheme = find_url_scheme(text)
    if scheme in STORAGE_SCHEMES and allow_storage:
        if not re.match(rf"{scheme}://[A-Za-z0-9][\w.-]*(/|$)", text, re.ASCII):
            return f"expected {scheme}://BUCKET/FOLDER, a bucket of letters, digits, '.', '_', '-'"
    elif scheme:
        return f"{scheme}:// is not supported: {_ADVICE.get(scheme, _STORE)}"
    if "\r" in text:
        return "it has a carriage return: convert the script or list to Unix line ends"
    if _CONTROL.search(text):
        return "it has a control character"
    if os.name == "posix" and _DRIVE.match(text):
        return "this is a Windows path: give the path on this machine (in WSL, C:\\ is /mnt/c/)"
    if found := _VARIABLE.match(text):
        return f"the shell has not expanded {found[0]}: single quotes prevent it"
    if os.name == "posix" and (found := _HOME.match(text)) and expand_home(text) == text:
        return f"there is no user {found[1]} on this machine; ./{text} is a folder of that name"
    return None


def find_url_scheme(text: str) -> str | None:
    """Return the lower-case scheme of a URL, also of one that `pathlib` has shortened, or None."""
    found = _URL.search(text) or _COLLAPSED.match(text)
    return found[1].lower() if found else None


def expand_home(text: str) -> str:
    """Return the path with a leading ~ expanded: the shell does not expand it in --flag=~/x."""
    return os.path.expanduser(text)


def require_local(path: str | os.PathLike, flag: str = "") -> None:
    """Raise an OmfaError if the path is a URL; `flag` names what to change.

    For the Python API, whose paths pass no flag and no config.
    """
    text = os.fspath(path)
    if scheme := find_url_scheme(text if isinstance(text, str) else os.fsdecode(text)):
        advice = _ADVICE.get(scheme, _STORE)
        change = f"; change {flag}" if flag else ""
        raise OmfaError(f"{text}: {scheme}:// is not supported: {advice}{change}")
