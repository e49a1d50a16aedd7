"""Read the Markdown documents: links, headings, code spans, code blocks and commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")),
        *(ROOT / "tools").glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
    ]
)
FOLDERS = ("omfa_jax", "configs", "tests", "bench", "launch", "docs", "tools")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^][]|\[[^][]*\])*)\]\(([^()\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the paragraphs before it in the document."""

    language: str
    text: str
    before: str


@cache
def read(document: Path) -> str:
    return document.read_text()


def blocks(document: Path) -> list[Block]:
    text = read(document)
    return [Block(f[2], f[3], text[: f.start()]) for f in _FENCE.finditer(text)]


def prose(document: Path) -> str:
    """Return the text without fenced blocks."""
    return _FENCE.sub("", read(document))


def links(document: Path) -> list[tuple[str, str]]:
    """Return (text, target) of the links, those inside of code left out."""
    found = []
    for match in _LINK.finditer(prose(document)):
        if "`" not in match[2]:
            found.append((match[1], match[2]))
    return found


def spans(document: Path) -> list[str]:
    """Return the code spans; a span may continue on the next line."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(document))]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


def commands(document: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of `omfa` and `convert_weights.py` commands, and whether they are complete.

    Those in blocks are; those in a sentence may be parts. Examples with "..." are parts too.
    """
    lines = []
    for block in blocks(document):
        if block.language == "sh":
            text = block.text.replace("\\\n", " ")
            lines += [(line, True) for line in text.splitlines()]
    lines += [(span, False) for span in spans(document)]
    for line, is_complete in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if words[:1] == ["python"]:
            words = words[1:]
        known = words[:1] in (["omfa"], ["convert_weights.py"])
        if known and len(words) > 1 and "[" not in line:
            words = [word for word in words if word not in ("...", "--help")]
            yield words, is_complete and "..." not in line


@cache
def repository_files() -> frozenset[str]:
    """Return the files of the repository, also in a copy that git does not know."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return frozenset(path.relative_to(ROOT).as_posix() for path in found if path.is_file())
