"""Write the commit that a package is built from into the package; all else is in pyproject.toml."""

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def find_revision() -> str:
    """Return OMFA_REVISION, or the checkout's commit, marked if it has changes, or ""."""
    given = os.environ.get("OMFA_REVISION", "").strip()
    # a parent folder's repository is another project's
    if given or not (HERE / ".git").exists():
        return given
    command = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        ran = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


class BuildWithRevision(build_py):
    """Adds omfa_jax/revision.txt, which `omfa_jax.core.code_revision` reads."""

    def run(self) -> None:
        super().run()
        revision = find_revision()
        # an editable install runs the checkout itself
        if revision and not self.editable_mode:
            (Path(self.build_lib) / "omfa_jax" / "revision.txt").write_text(revision + "\n")


setup(cmdclass={"build_py": BuildWithRevision})
