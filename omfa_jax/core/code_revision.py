"""Which code runs: in a git checkout its commit, in an installed package the commit it is from."""

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

from omfa_jax import __version__

PACKAGE = Path(__file__).parents[1]
# written by setup.py into the built package
REVISION_FILE = "revision.txt"
UNKNOWN = "of an unknown commit"


def get_code_revision(package: Path = PACKAGE) -> str:
    """Return the version, the commit, and a digest of what differs from it.

    Without git access to the checkout, and in an installed package, the digest is that of all
    sources: two hosts with the same text run the same code, whether or not the commit is known.
    """
    checkout = package.parent
    if (checkout / ".git").exists():
        try:
            commit, changes = (
                run_git(checkout, *command)
                for command in (("rev-parse", "HEAD"), ("diff", "HEAD", "--", package.name))
            )
        except (OSError, subprocess.SubprocessError):
            # git is missing, or refuses a folder of another owner
            return f"{__version__} {UNKNOWN}, sources {compute_source_digest(package)}"
        state = f"changed {_digest(changes.encode())}" if changes else "clean"
        return f"{__version__} {commit.strip()} {state}"
    commit = read_built_revision(package) or read_installed_commit() or UNKNOWN
    return f"{__version__} {commit}, sources {compute_source_digest(package)}"


def run_git(folder: Path, *command: str) -> str:
    """Return what a git command in `folder` prints."""
    return subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=20, check=True
    ).stdout


def read_built_revision(package: Path = PACKAGE) -> str:
    """Return the commit that the build has written into the package; "" if it has not."""
    try:
        return (package / REVISION_FILE).read_text().strip()
    except OSError:
        return ""


def read_installed_commit(name: str = "omfa_jax") -> str:
    """Return the commit that pip installed from a repository's address (PEP 610), or ""."""
    try:
        text = importlib.metadata.distribution(name).read_text("direct_url.json")
        return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return ""


def compute_source_digest(package: Path = PACKAGE) -> str:
    """Return a digest of the names and contents of all Python files of the package."""
    files = sorted(package.rglob("*.py"))
    parts = (b"%s\0%s\0" % (str(f.relative_to(package)).encode(), f.read_bytes()) for f in files)
    return _digest(b"".join(parts))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
