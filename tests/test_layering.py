"""The repository's structure: layers, third-party imports, file lengths, names, cost of imports."""

import ast
import collections
import functools
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import omfa_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "omfa_jax"
# a folder or module imports from the rows before its own; those of one row do not meet
LAYERS = [
    {"core"},
    {"models", "diffusion", "body"},
    {"data", "parallel", "weights"},
    {"synthetic"},
    {"train", "sampling"},
    {"model_loading"},
    {"evals", "planning"},
    {"studies"},
    {"app"},
    {"cli"},
]
# the same within data
DATA_LAYERS = [{"records"}, {"checks"}, {"builders", "pipeline"}]
FORBIDDEN = {
    "core": {"jax", "flax", "torch"},
    "models": {"torch"},
    "diffusion": {"flax", "torch"},
    "body": {"jax", "flax", "torch"},
    "data": {"jax", "flax", "torch"},
    "parallel": {"flax", "torch"},
    "weights": {"flax"},
    "synthetic": {"jax", "flax", "torch"},
    "train": {"flax", "torch"},
    "sampling": {"flax", "torch"},
    "model_loading": {"flax", "torch"},
    "planning": {"flax", "torch"},
    "evals": {"flax"},
    "studies": {"jax", "flax", "torch"},
    "app": {"jax", "flax", "torch"},
    "cli": {"flax"},
}
ALLOWED = {"body/fit": {"jax"}}
MAX_LINES = 300
MEDIAN_LINES = range(90, 141)
MAX_DATA_FILES = 16
# a file of another folder may have one of these names too
COMMON_NAMES = {"__init__.py", "settings.py"}
LIGHT = (
    "omfa_jax",
    "omfa_jax.synthetic.world_writer",
    "omfa_jax.data.builders.keypoint_photos",
    "omfa_jax.cli.main",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
FILES = SOURCES + sorted(
    path for name in ("bench", "configs", "tests", "tools") for path in (ROOT / name).rglob("*.py")
)


@functools.cache
def list_imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # a relative import has no place in the table of layers
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return frozenset(found)


def list_modules() -> Iterator[tuple[Path, str, str]]:
    """Yield (file, its layer, a module that it imports) for every file within a layer."""
    for path in SOURCES:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "assets"):
            for module in sorted(list_imports(path)):
                yield path.relative_to(PACKAGE), parts[0], module


def is_below(layers: list[set[str]], lower: str, upper: str) -> bool:
    level = {name: index for index, names in enumerate(layers) for name in names}
    return lower == upper or level[lower] < level[upper]


def test_every_folder_and_module_has_a_layer():
    entries = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert entries - {"__init__", "__pycache__", "assets"} == set().union(*LAYERS) == set(FORBIDDEN)


def test_modules_import_only_from_lower_layers():
    faults = []
    for path, layer, module in list_modules():
        names = module.split(".")
        relative = module.startswith(".")
        # the public interface is for users: it may lead to any layer
        face = names[0] == "omfa_jax" and len(names) == 2 and names[1] in omfa_jax.__all__
        inside = names[0] == "omfa_jax" and len(names) > 1 and names[1] in FORBIDDEN
        if relative or face or (inside and not is_below(LAYERS, names[1], layer)):
            faults.append(f"{path}: {module}")
    assert not faults


def test_records_builders_and_pipeline_are_layers_of_data():
    faults = []
    for path, layer, module in list_modules():
        names = module.split(".")
        if layer == "data" and names[:2] == ["omfa_jax", "data"] and len(names) > 2:
            ours = path.parts[1]
            if not is_below(DATA_LAYERS, names[2], ours):
                faults.append(f"{path}: {module}")
    assert not faults


def test_no_layer_imports_a_forbidden_library():
    faults = []
    for path, layer, module in list_modules():
        # TensorFlow takes seconds to import and reserves GPU memory; only cli knows the config
        forbidden = FORBIDDEN[layer] | {"tensorflow"}
        forbidden |= set() if layer == "cli" else {"configs", "ml_collections"}
        forbidden -= ALLOWED.get(str(path.parent), set())
        # importing body.fit imports jax, which the rest of body does without
        pays = layer == "body" and path.parts[1] != "fit" and module.startswith("omfa_jax.body.fit")
        if module.split(".")[0] in forbidden or pays:
            faults.append(f"{path}: {module}")
    assert not faults


def test_the_package_imports_no_tool():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} | {"tools", "bench", "tests"}
    faults = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in SOURCES
        for module in list_imports(path)
        if module.split(".")[0] in tools
    }
    assert not faults


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
    ours = [n for path, n in lengths.items() if path.startswith("omfa_jax/")]
    # of the package: a test's length follows the number of its cases
    median = statistics.median(ours)
    print(f"{len(ours)} files in omfa_jax, median length {median} lines")
    assert round(median) in MEDIAN_LINES


def test_file_names_are_unique():
    paths = collections.defaultdict(list)
    for path in FILES:
        paths[path.name].append(str(path.relative_to(ROOT)))
    repeated = {name: found for name, found in paths.items() if len(found) > 1}
    assert repeated.keys() <= COMMON_NAMES, repeated


def test_folders_of_data_are_small():
    counts = collections.Counter(
        path.parent.name
        for path in SOURCES
        if path.is_relative_to(PACKAGE / "data") and path.name != "__init__.py"
    )
    assert {folder: n for folder, n in counts.items() if n > MAX_DATA_FILES} == {}


def test_imports_are_light():
    # in one process: what one of them imports, the next would have to import too
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'jax', 'tensorflow', 'flax'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
        # what tensorboardX and the stores' clients bring is loaded where it is used
        "import omfa_jax.cli.train, omfa_jax.train.loop\n"
        "heavy = {'torch', 'gcsfs', 's3fs', 'boto3', 'google.cloud.storage'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
