"""Which code a process runs, in a checkout and in an installed package."""

import importlib.metadata
import importlib.util
import subprocess
from pathlib import Path

import pytest

from omfa_jax.core import code_revision
from omfa_jax.core.code_revision import get_code_revision, read_installed_commit

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "site-packages" / "omfa_jax"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n")
    return folder


def test_a_checkout_names_its_commit_and_its_changes(package):
    def git(*command):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(package.parent)]
        return subprocess.run(
            ["git", *identity, *command], check=True, capture_output=True, text=True
        )

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert get_code_revision(package).endswith(f" {commit} clean")
    (package / "a.py").write_text("x = 2\n")
    changed = get_code_revision(package)
    assert f" {commit} changed " in changed
    (package / "a.py").write_text("x = 3\n")
    assert get_code_revision(package) != changed


def test_git_that_refuses_leaves_a_digest_of_the_sources(package, monkeypatch):
    def refuse(command, **_):
        raise code_revision.subprocess.CalledProcessError(128, command)

    (package.parent / ".git").mkdir()
    monkeypatch.setattr(code_revision.subprocess, "run", refuse)
    first = get_code_revision(package)
    assert " of an unknown commit, sources " in first
    (package / "b.py").write_text("")
    assert get_code_revision(package) != first


def test_an_installed_package_names_what_it_was_built_from(package, monkeypatch):
    monkeypatch.setattr(code_revision, "read_installed_commit", lambda: "")
    assert " of an unknown commit, sources " in get_code_revision(package)
    (package / "revision.txt").write_text(COMMIT + "\n")
    named = get_code_revision(package)
    assert f" {COMMIT}, sources " in named
    # sources that were changed after they were installed
    (package / "a.py").write_text("x = 2\n")
    assert get_code_revision(package) != named


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ('{"url": "https://a/b.git", "vcs_info": {"vcs": "git", "commit_id": "%s"}}', COMMIT),
        ('{"url": "file:///a", "dir_info": {}}', ""),
        (None, ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_pip_notes_the_commit_of_a_repository(monkeypatch, text, commit):
    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return text.replace("%s", COMMIT) if text else text

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    assert read_installed_commit() == commit


def test_the_build_writes_the_commit(monkeypatch, tmp_path):
    """setup.py's own function; a whole build takes seconds."""
    called = []
    monkeypatch.setattr("setuptools.setup", lambda **arguments: called.append(arguments))
    spec = importlib.util.spec_from_file_location("omfa_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("OMFA_REVISION", COMMIT)
    assert module.find_revision() == COMMIT
    monkeypatch.delenv("OMFA_REVISION")
    monkeypatch.setattr(module, "HERE", tmp_path)
    assert module.find_revision() == ""
    (command,) = (arguments["cmdclass"]["build_py"] for arguments in called)
    from setuptools import Distribution

    built = command(Distribution())
    built.build_lib, built.editable_mode = str(tmp_path), False
    (tmp_path / "omfa_jax").mkdir()
    monkeypatch.setattr(module.build_py, "run", lambda self: None)
    monkeypatch.setenv("OMFA_REVISION", COMMIT)
    built.run()
    assert (tmp_path / "omfa_jax" / "revision.txt").read_text() == COMMIT + "\n"
