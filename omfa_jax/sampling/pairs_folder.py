"""The folder of `omfa sample --pairs`: whose run it is, what is finished, and what failed.

OUT/pairs.json has the settings and a line for each picture. While a run lasts, each process appends
its pictures to OUT/.pictures.N.jsonl, which the next start or the end merges into pairs.json. A
picture counts as finished if its line says so and its files are there; files are put into place
whole, after their line, so a kill at any moment leaves none that is half written. In object storage
lines appear up to half a minute later: pictures without one are made again, with the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omfa_jax.core.append_only import AppendOnlyFile, read_json_lines
from omfa_jax.core.atomic_files import atomic_write, delete_stale_temporaries
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.name_lists import format_list_line
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.run_facts import describe_changes
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.sampling.pair_names import PairPicture

RUN_FILE, FAILED_FILE = "pairs.json", "failed_pairs.txt"
LEDGERS = ".pictures.*.jsonl"
DONE, FAILED, MISSING = "done", "failed", "missing"
# what identifies a line of pairs.json with a line of the list
IDENTITY = ("person", "garment", "name")

PictureLine = dict[str, Any]


class PairsFolder:
    """The pictures of one run in `out`; `components` are what the task generates.

    A single component's pictures are OUT/NAME.png; those of several lie in OUT/COMPONENT. `sources`
    is written to pairs.json and not compared.
    """

    def __init__(
        self,
        out: AnyPath,
        pictures: Sequence[PairPicture],
        components: Sequence[str],
        sources: Mapping[str, str] | None = None,
    ):
        self.out, self.pictures, self.components = out, pictures, tuple(components)
        self.sources = dict(sources or {})
        self._ledger: AppendOnlyFile | None = None

    def get_path(self, name: str, component: str) -> AnyPath:
        """Return the path of a picture's component."""
        folder = self.out if len(self.components) == 1 else self.out / component
        return folder / f"{name}.png"

    def claim(self, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        """Claim the folder for the run that `facts` describe, or continue that run.

        A list that has grown at its end is continued. Raises OmfaError for the folder of another
        run, naming what differs, and for pictures of these names that no run wrote; `overwrite`
        deletes the pictures that another run's pairs.json lists and starts over.
        """
        path = self.out / RUN_FILE
        lines = [self._make_line(MISSING, picture) for picture in self.pictures]
        if path.is_file():
            before, old = _read_run_file(path)
            if overwrite:
                self._delete(old)
            else:
                self._require_same_run(before, facts, old)
                lines[: len(old)] = self.merge(old)
        else:
            self._require_no_pictures()
        self._write(facts, lines)
        for ledger in self.out.glob(LEDGERS):
            ledger.unlink()
        for folder in self._list_folders():
            delete_stale_temporaries(folder)

    def merge(self, lines: Sequence[PictureLine]) -> list[PictureLine]:
        """Return the lines of pairs.json with what the processes have appended since."""
        merged = {line["name"]: line for line in lines}
        for ledger in sorted(self.out.glob(LEDGERS)):
            for _, line in read_json_lines(ledger):
                if line.get("name") in merged:
                    merged[line["name"]] = line
        return list(merged.values())

    def list_missing(self) -> list[int]:
        """Return the places of the pictures that are not finished: new ones and failures."""
        _, lines = _read_run_file(self.out / RUN_FILE)
        there = {folder: _list_names(folder) for folder in self._list_folders()}
        return [
            place
            for place, line in enumerate(lines)
            if line["status"] != DONE
            or any(
                path.name not in there[path.parent]
                for path in (self.get_path(line["name"], c) for c in self.components)
            )
        ]

    def open_ledger(self, process: int) -> None:
        """Begin the file that this process appends to."""
        self._ledger = AppendOnlyFile(self.out / f".pictures.{process}.jsonl", lines=True)

    def append(self, place: int, status: str, **said: Any) -> PictureLine:
        """Append what became of a picture; a finished one's files are written afterwards."""
        line = self._make_line(status, self.pictures[place], **said)
        assert self._ledger is not None, "open_ledger comes first"
        self._ledger.append(json.dumps(line).encode() + b"\n")
        return line

    def close_ledger(self) -> None:
        """Close this process's file; in object storage its last lines appear only now."""
        if self._ledger is not None:
            self._ledger.close()

    def close(self, facts: Mapping[str, Any]) -> list[PictureLine]:
        """Write pairs.json and the list of failures; return the lines of failed pictures.

        Every process has called `close_ledger`.
        """
        _, lines = _read_run_file(self.out / RUN_FILE)
        lines = self.merge(lines)
        self._write(facts, lines)
        for ledger in self.out.glob(LEDGERS):
            ledger.unlink()
        failed = [line for line in lines if line["status"] == FAILED]
        if not failed:
            (self.out / FAILED_FILE).unlink(missing_ok=True)
            return []
        with atomic_write(self.out / FAILED_FILE) as temporary:
            # a list of pairs itself: reasons are comments
            temporary.write_text("".join(map(_format_failure, failed)))
        return failed

    def _make_line(self, status: str, picture: PairPicture, **said: Any) -> PictureLine:
        named = {"name": picture.name, "person": picture.person, "garment": picture.garment}
        return {**named, "status": status, **said}

    def _write(self, facts: Mapping[str, Any], lines: Sequence[PictureLine]) -> None:
        counts = {
            status: sum(line["status"] == status for line in lines)
            for status in (DONE, FAILED, MISSING)
        }
        # a line each, for grep
        rows = ",\n".join(json.dumps(line) for line in lines)
        parts = {"settings": dict(facts), "sources": self.sources, "counts": counts}
        head = "".join(f'"{name}": {json.dumps(part)},\n' for name, part in parts.items())
        with atomic_write(self.out / RUN_FILE) as temporary:
            temporary.write_text(f'{{{head}"pictures": [\n{rows}\n]}}\n')

    def _require_same_run(
        self, before: Mapping[str, Any], facts: Mapping[str, Any], old: Sequence[PictureLine]
    ) -> None:
        changes = describe_changes(before, facts)
        listed = [(p.person, p.garment, p.name) for p in self.pictures]
        known = [tuple(line[key] for key in IDENTITY) for line in old]
        if known != listed[: len(known)]:
            same = [a == b for a, b in zip(known, listed, strict=False)]
            first = same.index(False) if False in same else len(same)
            changes += "; " * bool(changes) + f"pairs: were {len(known)}, now {len(listed)}, which"
            changes += f" differ from number {first + 1} on"
        if changes:
            raise OmfaError(
                f"{self.out} holds pictures of another run ({changes}); give another folder to"
                " --out, or --overwrite to delete them and start over"
            )

    def _require_no_pictures(self) -> None:
        there = {folder: _list_names(folder) for folder in self._list_folders()}
        paths = (self.get_path(p.name, c) for p in self.pictures for c in self.components)
        found = next((path for path in paths if path.name in there[path.parent]), None)
        if found is not None:
            raise OmfaError(
                f"{found} exists, but {self.out} has no {RUN_FILE}, so no run of these pairs wrote"
                " it; give another folder to --out"
            )

    def _delete(self, lines: Sequence[PictureLine]) -> None:
        """Delete the files that a run's lines name; links and files of other folders stay."""
        for line in lines:
            for folder in (self.out, *(self.out / name for name in COMPONENTS)):
                path = folder / f"{line['name']}.png"
                inside = path.parent == folder and not folder.is_symlink()
                if inside and path.is_file() and not path.is_symlink():
                    path.unlink()
        (self.out / FAILED_FILE).unlink(missing_ok=True)

    def _list_folders(self) -> list[AnyPath]:
        return sorted({self.get_path("x", component).parent for component in self.components})


def _read_run_file(path: AnyPath) -> tuple[dict[str, Any], list[PictureLine]]:
    try:
        found = parse_json(path.read_text())
        settings, lines = found["settings"], found["pictures"]
        whole = all({"status", *IDENTITY} <= {*line} for line in lines)
    except (ValueError, TypeError, KeyError):
        whole, settings, lines = False, {}, []
    if not whole or not isinstance(settings, dict):
        raise OmfaError(
            f"{path}: damaged, so nothing says what made the pictures beside it; give another"
            " folder to --out, or delete them and the file"
        )
    return settings, lines


def _list_names(folder: AnyPath) -> set[str]:
    # one listing instead of thousands of look-ups, which are slow on network file systems
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _format_failure(line: PictureLine) -> str:
    reason = " ".join(str(line.get("why", "")).split())
    return f"# {reason}\n{format_list_line(line['person'], line['garment'])}\n"
