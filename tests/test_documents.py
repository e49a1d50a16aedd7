"""The documents name files, symbols, flags and config values that exist."""

import argparse
import importlib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import documents
import pytest
from documents import DOCUMENTS, ROOT

import convert_weights
from omfa_jax.cli.config_table import TABLE, find_row
from omfa_jax.cli.main import COMMANDS, choose_module, make_parser
from omfa_jax.train.config_keys import RENAMED_KEYS

sys.path.append(str(ROOT / "tools"))
architecture = importlib.import_module("update_architecture")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
README_LINES = 160
THINGS = 12
# files that commands write, or that are other projects'
FOREIGN_FILES = {"generate_smpls.py", "slurm.sh", "xpk.sh"}
# flags of other programs, or old ones that a document tells the new name of
FOREIGN_FLAGS = {"--nodes", "--ntasks-per-node"}
CODE = (".py", ".sh", ".yaml", ".json", ".toml")


@cache
def code_words() -> frozenset[str]:
    """Return every word of the code, without the tests'."""
    words: set[str] = set()
    for name in documents.tracked():
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


def test_line_numbers_are_updated(tmp_path: Path):
    (tmp_path / "x.py").write_text("one\ntwo | three\n")
    old = r"| this | [x.py:9](../x.py#L9) | `two \| three` |"
    new = r"| this | [x.py:2](../x.py#L2) | `two \| three` |"
    assert architecture.update_line(old, tmp_path) == new
    (tmp_path / "x.py").write_text("two | three\ntwo | three\n")
    with pytest.raises(ValueError, match="this: 2 lines of x.py"):
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
            found = any(path == name or path.endswith(f"/{name}") for path in documents.tracked())
            made = f"`{name}`" in documents.read(ROOT / "docs" / "extending.md")
            assert found or made, f"{document.name}: {name} does not exist"


@each_document
def test_named_symbols_exist(document):
    """Spans such as `keep_clean`, `VitonHD.list_items` or `UNETS` are words of the code."""
    for span in documents.spans(document):
        name = span.removesuffix("()")
        if re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", name):
            last = name.split(".")[-1]
            looks_like_code = "_" in last or last != last.lower() or span.endswith("()")
            if looks_like_code and not last.isupper():
                assert last in code_words(), f"{document.name}: `{span}` is not in the code"


@each_document
def test_named_config_values_exist(document):
    """Spans such as `train.steps`, and --config.train.steps in commands, are rows of the table."""
    groups = {key.split(".")[0] for key in TABLE if "." in key}
    text = documents.read(document)
    named = {f"config.{name}" for name in re.findall(r"--config\.([a-z_0-9.]+[a-z_0-9])", text)}
    for span in documents.spans(document):
        found = re.fullmatch(r"(config\.)?(([a-z_0-9]+)(\.[a-z_0-9*]+)*)(=.*)?", span)
        if found and (found[1] or (found[3] in groups and found[4])):
            named.add(f"config.{found[2]}")
    for name in sorted(named):
        key = name.removeprefix("config.")
        if Path(ROOT, f"{key}").suffix == ".py" or key.endswith((".py", ".json")):
            continue
        assert key not in RENAMED_KEYS, f"{document.name}: {key} is now {RENAMED_KEYS.get(key)}"
        is_group = any(row.startswith(f"{key}.") for row in TABLE)
        assert is_group or find_row(key) is not None, f"{document.name}: {name}"


@cache
def all_flags() -> frozenset[str]:
    """Return every flag of every command of this repository."""
    found: set[str] = set()
    for name in documents.tracked():
        if name.endswith((".py", ".sh")) and not name.startswith("tests/"):
            found |= set(re.findall(r"--[a-z][a-z0-9-]*", (ROOT / name).read_text()))
    found |= {"--train", "--val", "--test"}
    return frozenset(found)


@each_document
def test_named_flags_exist(document):
    text = documents.read(document)
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w.-])", text):
        assert flag in all_flags() | FOREIGN_FLAGS, f"{document.name}: {flag}"


class Refuses(Exception):
    """A parser's error, which would exit otherwise."""


@each_document
def test_commands_parse(document, monkeypatch):
    """Every command of a document is accepted by the command's own parser."""

    def refuse(parser, message):
        raise Refuses(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    for words in documents.commands(document):
        program, *rest = words
        if program == "convert_weights.py":
            parser = convert_weights._parser()
        else:
            command, *rest = rest
            assert command in COMMANDS, shlex.join(words)
            parser, rest = make_parser(command, rest), choose_module(command, rest)[1]
        if len(words) < 4 and not any(word.startswith("-") for word in words):
            # the name of a command, such as `omfa data build`, not a call of it
            rest = [*rest, "--help"]
        try:
            _, unknown = parser.parse_known_args(rest)
        except Refuses as refused:
            # a sentence may name a command with only the flags that it is about
            if not str(refused).startswith("the following arguments are required"):
                raise AssertionError(f"{document.name}: {shlex.join(words)}: {refused}") from None
            continue
        except SystemExit:
            continue
        wrong = [word for word in unknown if not word.startswith("--config.")]
        assert not wrong, f"{document.name}: {shlex.join(words)}: unknown {wrong}"


def test_readme_is_short():
    assert len(documents.read(ROOT / "README.md").splitlines()) <= README_LINES


def test_the_index_lists_every_document():
    index = ROOT / "docs" / "README.md"
    listed = {target for _, target in documents.links(index)}
    assert {path.name for path in index.parent.glob("*.md")} - {index.name} <= listed
