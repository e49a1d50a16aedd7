"""The documents name files, symbols, flags and config values that exist."""

import argparse
import ast
import builtins
import importlib
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import documents
import pytest
import test_layering
from documents import DOCUMENTS, ROOT

import convert_weights
from omfa_jax.cli.config_table import TABLE, find_row
from omfa_jax.cli.main import COMMANDS, choose_module, make_parser
from omfa_jax.core.errors import OmfaError
from omfa_jax.models.presets import UNETS
from omfa_jax.train.config_keys import RENAMED_KEYS

sys.path.append(str(ROOT / "tools"))
architecture = importlib.import_module("update_architecture")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
README_LINES = 160
THINGS = 12
# files that commands write, or that are other projects'
FOREIGN_FILES = {"generate_smpls.py", "metrics.py", "val_metrics.py", "xpk.sh"}
# flags of other programs: Slurm, Apache Beam and CatVTON
FOREIGN_FLAGS = {"--nodes", "--ntasks-per-node", "--project", "--region", "--repaint"}
# of docker, TensorBoard and gcsfuse
FOREIGN_FLAGS |= {"--build-arg", "--gpus", "--init", "--logdir", "--rm", "--shm-size", "--user"}
FOREIGN_FLAGS |= {"--member", "--rename-dir-limit", "--role"}
# of pip and Spark
FOREIGN_FLAGS |= {"--conf", "--master", "--no-deps"}
FOREIGN_WORDS = {"beam_runner", "JAX_COMPILATION_CACHE_DIR"}
# arguments that lead to another parser of a command
VARIANTS = {"eval": ([], ["--checkpoint", "x"], ["report"])}
CODE = (".py", ".sh", ".yaml", ".json", ".toml", "Dockerfile")


@cache
def code_words() -> frozenset[str]:
    """Return every word of the code, without the tests'."""
    words = {*UNETS, *FOREIGN_WORDS}
    for name in documents.repository_files():
        if name.endswith(CODE) and not name.startswith(("tests/", "docs/")):
            words |= set(re.findall(r"\w+", (ROOT / name).read_text()))
    # what a document itself tells the reader to write
    for block in documents.blocks(ROOT / "docs" / "extending.md"):
        words |= set(re.findall(r"\w+", block.text))
    return frozenset(words)


def test_the_table_of_the_architecture_leads_to_its_lines():
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    rows = [row for row in map(architecture.parse_row, lines) if row is not None]
    assert len(rows) == THINGS == sum("#L" in line for line in lines)
    for row in rows:
        assert architecture.find_line(row) == row.line, "run python tools/update_architecture.py"
        assert row.target == f"../{row.path}#L{row.line}"


def test_the_architecture_has_the_layers_of_the_test():
    block = documents.blocks(ROOT / "docs" / "architecture.md")[0]
    levels = [set(level.replace(",", " ").split()) for level in block.text.split("<")]
    assert levels == test_layering.LAYERS


def test_line_numbers_are_updated(tmp_path: Path):
    (tmp_path / "x.py").write_text("one\ntwo | three\n")
    old = r"| this | [x.py:9](../x.py#L9) | `two \| three` |"
    new = r"| this | [x.py:2](../x.py#L2) | `two \| three` |"
    assert architecture.update_line(old, tmp_path) == new
    (tmp_path / "x.py").write_text("two | three\ntwo | three\n")
    with pytest.raises(ValueError, match=r"this: 2 lines of x.py"):
        architecture.update_line(old, tmp_path)


@each_document
def test_links_lead_to_files_and_headings(document):
    for text, target in documents.links(document):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists() and place.is_relative_to(ROOT), f"[{text}]({target})"
        if anchor and place.suffix == ".md":
            assert anchor in documents.anchors(place), f"[{text}]({target})"


@each_document
def test_linked_symbols_are_defined_in_the_linked_file(document):
    """A link such as [`corrupt`](../omfa_jax/diffusion/partial.py) names something of that file."""
    for text, target in documents.links(document):
        name = text.strip("`")
        if text == f"`{name}`" and target.endswith(".py") and name.isidentifier():
            source = (document.parent / target).read_text()
            defined = rf"^\s*(def|class) {name}\b|^{name}\b.* = "
            assert re.search(defined, source, re.MULTILINE), f"[{text}]({target})"


@each_document
def test_named_files_exist(document):
    for span in documents.spans(document):
        for name in re.findall(r"(?:^|(?<=[\s=:]))[\w./-]+\.(?:py|sh|yaml|md)\b", span):
            name = name.removeprefix("./")
            if name.startswith(("/", "..", "-")) or Path(name).name in FOREIGN_FILES:
                continue
            found = any(
                path == name or path.endswith(f"/{name}") for path in documents.repository_files()
            )
            made = f"`{name}`" in documents.read(ROOT / "docs" / "extending.md")
            assert found or made, f"{document.name}: {name} does not exist"


def test_files_named_in_docstrings_and_comments_exist():
    names = {Path(name).name for name in documents.repository_files()}
    for name in sorted(documents.repository_files()):
        if name.endswith(".py") and name.startswith(("omfa_jax/", "configs/")):
            for span in re.findall(r"`([\w./]+\.py)`", (ROOT / name).read_text()):
                found = Path(span).name in names | FOREIGN_FILES
                assert found or span == "configs/RUN.py", f"{name}: {span} does not exist"


@each_document
def test_named_symbols_exist(document):
    """Spans such as `keep_clean`, `VitonHD.list_items` or `UNETS` are words of the code."""
    for span in documents.spans(document):
        name = span.removesuffix("()")
        if re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", name):
            last = name.split(".")[-1]
            is_mixed = last != last.lower() and not last.isupper()
            if "_" in last or is_mixed or span.endswith("()"):
                assert last in code_words(), f"{document.name}: `{span}` is not in the code"


@each_document
def test_named_config_values_exist(document):
    """Spans such as `train.steps`, and --config.train.steps in commands, are rows of the table."""
    groups = {key.split(".")[0] for key in TABLE if "." in key}
    text = documents.read(document)
    named = {f"config.{name}" for name in re.findall(r"--config\.([a-z_0-9.]+[a-z_0-9])", text)}
    for span in documents.spans(document):
        found = re.fullmatch(r"(config\.)?(([a-z_0-9]+)(\.[a-z_0-9*]+)*)(=.*)?", span)
        if (
            found
            and not span.endswith((".py", ".json", ".safetensors"))
            and (found[1] or (found[3] in groups and found[4]))
        ):
            named.add(f"config.{found[2]}")
    for name in sorted(named):
        key = name.removeprefix("config.")
        assert key not in RENAMED_KEYS, f"{document.name}: {key} is now {RENAMED_KEYS.get(key)}"
        is_group = any(row.startswith(f"{key}.") for row in TABLE)
        assert is_group or find_row(key) is not None, f"{document.name}: {name}"


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    """Return the flags of a parser and of its sub-commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(option_strings, action.choices.values()))
    return found


@cache
def all_flags() -> frozenset[str]:
    """Return every flag of every command and script of this repository."""
    found = option_strings(convert_weights._parser())
    for command in COMMANDS:
        for variant in VARIANTS.get(command, ([],)):
            found |= option_strings(make_parser(command, variant))
    for name in documents.repository_files():
        if name.startswith(("bench/", "launch/", "omfa_jax/assets/")) and name.endswith(CODE):
            found |= set(re.findall(r"--[a-z][a-z0-9-]*", (ROOT / name).read_text()))
    return frozenset(found)


@each_document
def test_named_flags_exist(document):
    known = all_flags() | FOREIGN_FLAGS
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w.-])", documents.read(document)):
        assert flag in known, f"{document.name}: {flag}"


@each_document
def test_commands_parse(document):
    """The command's own parser accepts every command in a block, and knows the flags in a span."""
    for words, is_complete in documents.commands(document):
        program, *rest = words
        if program == "convert_weights.py":
            parser = convert_weights._parser()
        else:
            command, *rest = rest
            if command == "COMMAND":
                continue
            assert command in COMMANDS, shlex.join(words)
            parser, rest = make_parser(command, rest), choose_module(command, rest)[1]
        try:
            wrong = parser.parse_known_args(rest)[1]
        except (OmfaError, argparse.ArgumentError) as error:
            # a sentence may name a command without the rest of what it needs
            assert not is_complete, f"{document.name}: {shlex.join(words)}: {error}"
            wrong = [word for word in rest if word[:2] == "--"]
            wrong = [word for word in wrong if word.split("=")[0] not in option_strings(parser)]
        wrong = [word for word in wrong if not word.startswith("--config.")]
        assert not wrong, f"{document.name}: {shlex.join(words)}: unknown {wrong}"


@each_document
def test_imports_of_examples_exist(document):
    """Python blocks import what is there, and so does a dotted name such as `omfa_jax.cli.main`."""
    for block in documents.blocks(document):
        if block.language != "python" or document.name == "extending.md":
            continue
        tree, aliases = ast.parse(block.text), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                aliases |= {name.asname or name.name: name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("omfa_jax"):
                for name in node.names:
                    assert is_importable(f"{node.module}.{name.name}"), f"{document.name}: {name}"
        assert not called_names(tree) - bound_names(tree), document.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = aliases.get(node.value.id, "")
                if owner.startswith("omfa_jax"):
                    assert is_importable(f"{owner}.{node.attr}"), f"{document.name}: {node.attr}"
    for span in documents.spans(document):
        for name in re.findall(r"omfa_jax(?:\.\w+)+", span):
            assert is_importable(name), f"{document.name}: {name}"


def called_names(tree: ast.AST) -> set[str]:
    """Return the plain names that are called."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)}


def bound_names(tree: ast.AST) -> set[str]:
    """Return the names that are imported, assigned or built in."""
    found = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def is_importable(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    module, _, last = name.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    is_package = hasattr(owner, "__path__")
    return hasattr(owner, last) or (is_package and importlib.util.find_spec(name) is not None)


def test_readme_is_short():
    assert len(documents.read(ROOT / "README.md").splitlines()) <= README_LINES


def test_the_index_lists_every_document():
    index = ROOT / "docs" / "README.md"
    listed = {target for _, target in documents.links(index)}
    assert {path.name for path in index.parent.glob("*.md")} - {index.name} <= listed
