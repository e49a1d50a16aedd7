"""Break guarded lines one at a time and see whether the tests notice.

    python bench/mutations.py            # about half an hour on two cores
    python bench/mutations.py EMA mask   # rows whose names hold one of these words
    python bench/mutations.py --check    # only whether every row still finds its line and tests

Works in a copy of the tree, so the checkout is not changed. The exit status is 1 if a line is not
guarded, 2 if a row does not match the tree.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutation_table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
COPIED = ("omfa_jax", "tests", "configs", "bench", "launch", "docs", "tools")


def find_line(tree: Path, mutation: Mutation) -> Path:
    """Return the one file of the package that holds the mutation's text."""
    found = []
    for path in sorted((tree / "omfa_jax").rglob("*.py")):
        found += [path] * path.read_text().count(mutation.old)
    if len(found) != 1:
        raise LookupError(f"{mutation.name}: its line occurs {len(found)} times instead of once")
    return found[0]


def find_tests(tree: Path, mutation: Mutation) -> list[str]:
    paths = [tree / "tests" / f"{name}.py" for name in mutation.tests.split()]
    for path in paths:
        if not path.is_file():
            raise LookupError(f"{mutation.name}: no {path.name}")
    return [str(path.relative_to(tree)) for path in paths]


def copy_tree(target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, target / path.name)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Return pytest's exit status and the line that names the test that failed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    # conftest's own setting comes too late in a process that is not an xdist worker
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests], cwd=tree, env=environment, capture_output=True, text=True
    )
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    return done.returncode, failed[0].split(" - ")[0] if failed else ""


def is_caught(tree: Path, mutation: Mutation) -> tuple[bool, str]:
    path, tests = find_line(tree, mutation), find_tests(tree, mutation)
    text = path.read_text()
    try:
        path.write_text(text.replace(mutation.old, mutation.new))
        # one file at a time: most mutations are caught by the first
        for test in tests:
            status, failed = run_tests(tree, [test])
            if status:
                return True, failed or f"pytest ended with {status}"
    finally:
        path.write_text(text)
    return False, ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="run only rows whose names contain one of these")
    parser.add_argument(
        "--check", action="store_true", help="check that lines and tests exist, run nothing"
    )
    parsed = parser.parse_args(arguments)
    words = parsed.words or [""]
    chosen = [row for row in MUTATIONS if any(word in row.name for word in words)]
    faults = []
    for row in chosen:
        try:
            find_line(ROOT, row)
            find_tests(ROOT, row)
        except LookupError as error:
            faults.append(str(error))
    print("\n".join(faults) or f"{len(chosen)} rows fit the tree", flush=True)
    if faults or parsed.check:
        return 2 if faults else 0
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        for row in chosen:
            begun = time.monotonic()
            caught, by = is_caught(Path(folder), row)
            missed += not caught
            word = "caught" if caught else "MISSED"
            print(f"{word}  {row.name:56} {time.monotonic() - begun:6.1f} s  {by}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
