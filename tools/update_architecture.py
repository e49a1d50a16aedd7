"""Update the line numbers in the table of docs/architecture.md by searching for the code.

    python tools/update_architecture.py

Each row has a file and a piece of code, which must occur exactly once in that file.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
ROW = re.compile(
    r"^\| (?P<what>.+?) \| \[(?P<path>[\w./]+):(?P<line>\d+)\]\((?P<target>[^)]+)\)"
    r" \| `(?P<code>.+)` \|$"
)


@dataclass(frozen=True)
class Row:
    """A row of the table; `code` is as in the file, without the table's escapes."""

    what: str
    path: str
    line: int
    target: str
    code: str


def parse_row(line: str) -> Row | None:
    """Return the row in a line of the document, None if it has none."""
    found = ROW.match(line)
    if found is None:
        return None
    # Markdown tables escape pipes, also inside of code
    code = found["code"].replace(r"\|", "|")
    return Row(found["what"], found["path"], int(found["line"]), found["target"], code)


def find_line(row: Row, root: Path = ROOT) -> int:
    """Return the number of the only line with the row's code; ValueError if it is not unique."""
    lines = (root / row.path).read_text().splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if row.code in line]
    if len(numbers) != 1:
        raise ValueError(f"{row.what}: {len(numbers)} lines of {row.path} have {row.code!r}")
    return numbers[0]


def update_line(line: str, root: Path = ROOT) -> str:
    """Return a line of the document with its row's line number updated."""
    row = parse_row(line)
    if row is None:
        return line
    number = find_line(row, root)
    old = f"[{row.path}:{row.line}]({row.target})"
    return line.replace(old, f"[{row.path}:{number}](../{row.path}#L{number})")


def main() -> int:
    """Update the document; return 1 if a row's code is missing or not unique."""
    lines = DOCUMENT.read_text().splitlines()
    try:
        DOCUMENT.write_text("\n".join(map(update_line, lines)) + "\n")
    except (OSError, ValueError) as error:
        print(f"{DOCUMENT.name} is unchanged: {error}; change the row's code", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
