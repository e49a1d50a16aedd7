"""The house's rules: who may import whom, how long a file may be, what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "omfa_jax"
LAYERS = [
    {"core"},
    {"models", "diffusion", "body"},
    {"data", "parallel", "weights"},
    {"train", "sampling"},
    {"evals"},
    {"scaling"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {
    "core": {"jax", "flax", "torch"},
    "data": {"jax", "flax", "torch", "tensorflow"},
    "body": {"jax", "flax"},
    "diffusion": {"flax"},
    "parallel": {"flax"},
    "weights": {"flax"},
    "train": {"flax", "torch"},
    "sampling": {"flax", "torch"},
    "evals": {"flax"},
    "cli": {"flax"},
}
ALLOWED = {"body/fit": {"jax"}}
MAX_LINES = 400
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    known = parts[0] == "omfa_jax" and len(parts) > 1 and parts[1] in LEVEL
    return parts[1] if known else None


def test_nothing_imports_the_tools():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} | {"tools"}
    for path in SOURCES:
        found = {module.split(".")[0] for module in imports(path)}
        assert not found & tools, f"{path}: {found & tools}"


def test_every_folder_is_a_layer():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - {"assets"} == set(LEVEL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_the_left(path):
    layer = path.relative_to(PACKAGE).parts[0]
    if layer not in LEVEL:
        return
    for module in imports(path):
        other = layer_of(module)
        if other is not None and other != layer:
            assert LEVEL[other] < LEVEL[layer], f"{layer} must not import {other} ({module})"
        forbidden = FORBIDDEN.get(layer, set()) - ALLOWED.get(
            str(path.parent.relative_to(PACKAGE)), set()
        )
        assert module.split(".")[0] not in forbidden, f"{layer}: {module}"
        # whoever imports these pays for jax, so nobody outside does it while being imported
        if layer == "body" and path.parent.name != "fit":
            assert not module.startswith("omfa_jax.body.fit"), f"{path.name}: {module}"


@pytest.mark.parametrize(
    "path",
    [
        *SOURCES,
        *(
            path
            for name in ("tests", "configs", "tools")
            for path in sorted((ROOT / name).glob("*.py"))
        ),
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_file_is_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    "module",
    [
        "omfa_jax",
        "omfa_jax.synthetic.world_writer",
        "omfa_jax.data.builders.keypoint_photos",
        "omfa_jax.cli.main",
    ],
)
def test_import_is_light(module):
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'jax', 'tensorflow', 'flax') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert output.stdout.strip() == "[]", output.stderr


def test_only_cli_knows_the_config():
    """Everyone else is handed settings: plain values and frozen dataclasses."""
    for path in SOURCES:
        if path.relative_to(PACKAGE).parts[0] != "cli":
            known = {name.split(".")[0] for name in imports(path)} & {"ml_collections", "configs"}
            assert not known, f"{path}: {known}"
