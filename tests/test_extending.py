"""docs/extending.md works to the letter: its blocks are applied to a copy, and the copy is used."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import documents
import pytest
from documents import ROOT

DOCUMENT = ROOT / "docs" / "extending.md"
PROGRAM = Path(__file__).with_name("use_extensions.py")
SECTIONS = (
    "A data set",
    "A metric",
    "A UNet size",
    "A chip",
    "A task",
    "A body source",
)
MAX_COLUMNS = 100
# the sentence before a block: which file it is, or changes
_PLACE = re.compile(r"^(New file|In) `([\w./]+)`", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """A block of the document: a new file, or a diff of an existing one."""

    section: str
    path: str
    is_new: bool
    text: str


def read_changes() -> list[Change]:
    """Return the changes that the document tells its reader to make."""
    changes = []
    for block in documents.blocks(DOCUMENT):
        if block.language not in ("python", "diff"):
            assert block.language == "sh", f"a block of {block.language or 'no language'}"
            continue
        section = re.findall(r"^## (.+)$", block.before, re.MULTILINE)[-1]
        kind, path = _PLACE.findall(block.before)[-1]
        is_new = block.language == "python"
        assert (kind == "New file") == is_new, f"{path}: {kind!r} before a {block.language} block"
        changes.append(Change(section, path, is_new, block.text))
    return changes


def apply_diff(source: str, diff: str, path: str) -> str:
    """Return the source with the lines of the diff replaced; they must occur exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in ("+", "-", " ") for line in lines), f"{path}: not a diff: {diff}"
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] in "- ")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] in "+ ")
    assert source.count(old) == 1, f"{path} has {source.count(old)} times:\n{old}"
    return source.replace(old, new)


def apply(change: Change, root: Path) -> None:
    path = root / change.path
    if change.is_new:
        assert not path.exists(), f"{change.path} is not new"
        path.write_text(change.text)
    else:
        path.write_text(apply_diff(path.read_text(), change.text, change.path))


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Return a copy of the package and the configs with every change of the document."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("omfa_jax", "configs"):
        shutil.copytree(ROOT / folder, root / folder)
    for change in read_changes():
        apply(change, root)
    return root


@pytest.fixture(scope="module")
def results(extended: Path, tmp_path_factory) -> dict:
    """Return what a process found that uses every extension of the copy."""
    workdir = tmp_path_factory.mktemp("uses")
    out = workdir / "results.json"
    # first on the path, before the editable installation
    environment = {**os.environ, "PYTHONPATH": str(extended), "JAX_NUM_CPU_DEVICES": "8"}
    program = [sys.executable, str(PROGRAM), str(workdir), str(out)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert Path(found["package"]).is_relative_to(extended)
    return found


def test_every_section_changes_something():
    assert {change.section for change in read_changes()} == set(SECTIONS)


def test_the_code_is_formatted(extended: Path):
    """New files pass ruff, and lines fit, as in the rest of the package."""
    changes = read_changes()
    names = sorted(change.path for change in changes if change.is_new)
    added = [line[1:] for c in changes if not c.is_new for line in c.text.splitlines()]
    assert max(map(len, added)) <= MAX_COLUMNS
    settings = ROOT / "pyproject.toml"
    for words in (("format", "--check", "--diff"), ("check",)):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", str(settings)]
        done = subprocess.run([*command, *names], cwd=extended, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_diff_must_apply():
    assert apply_diff("a\nb\n", " a\n-b\n+c\n", "x") == "a\nc\n"
    with pytest.raises(AssertionError, match="0 times"):
        apply_diff("a\nb\n", "-c\n+d\n", "x")


def test_the_data_set_is_built(results):
    built = results["data set"]
    assert built["detected"] == "my_set"
    assert built["splits"] == {"train": 1, "test": 1}
    assert built["keys"] == ["00001"] and built["categories"] == ["upper"]
    assert built["warnings"] == ["train: 00003 has no garment; left out"]
    assert "my_set" in built["help"]


def test_the_metric_scores_two_images(results):
    metrics = results["metric"]
    # one image differs by 10 grey levels, the other not at all
    assert metrics["mae"] == pytest.approx([10, 0])
    assert set(metrics) == {"mae", "ssim"}


def test_the_size_has_shapes_and_shardings(results):
    size = results["size"]
    assert size["widths"] == [160, 320, 640]
    assert 1e8 < size["parameters"] < 2.57e9
    # all but convolutions with few channels, biases and scales
    assert size["sharded_fraction"] > 0.98


def test_the_chip_is_planned(results):
    assert results["chip"] == {
        "devices": 8,
        "platform": "cuda",
        "peak_flops": 989e12,
        "found": "NVIDIA H800",
    }


def test_the_task_is_in_the_table(results):
    assert set(results["task"]["names"]) == {"try_on", "try_off", "joint"}
    assert results["task"]["noised"] == [True, True, False]


def test_the_body_is_imported_and_rendered(results):
    body = results["body"]
    assert body["transl"] == pytest.approx([0, 0.2, 3])
    assert body["focal_px"] == [300, 300]
    assert body["source"] == "smplx"
    assert 0.02 < body["covered"] < 0.6
