"""What `bench/gpu.py` measures, by worth, and the loop that measures what is missing."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_processes import NO_TILES, Clock, OutOfTime, Processes, Worker, WorkerError

Row = dict[str, Any]
# (name, row) as soon as they are measured
Rows = Iterator[tuple[str, Row]]
# turns of each side of a comparison
ROUNDS = 3
PICTURES = 2
FINAL = ("done", "no memory", "skipped", "failed twice")
KERNELS, VERSUS, SAMPLING = "kernels", "diffusers, training", "diffusers, sampling"


@dataclass(frozen=True)
class Section:
    """Rows of the report that are measured together; not begun with less than `least_s` left."""

    names: tuple[str, ...]
    least_s: float
    run: Callable[[], Rows]


def run_sections(
    sections: list[Section], report: Row, clock: Clock, save: Callable[[], None]
) -> None:
    """Measure the rows that the report lacks; save after each, whatever it ends with.

    Sections that failed before come last, and a second failure is final.
    """
    rows = report.setdefault("sections", {})

    def status(name: str) -> str:
        return rows.get(name, {}).get("status", "")

    def put(name: str, row: Row) -> None:
        again = row["status"] == "failed" and status(name) == "failed"
        rows[name] = row | ({"status": "failed twice"} if again else {})
        print(f"{name}: {rows[name]['status']} {row.get('note', '')}".rstrip(), flush=True)

    def fail(names: list[str], row: Row) -> None:
        for name in names:
            put(name, row)

    todo = [s for s in sections if any(status(name) not in FINAL for name in s.names)]
    todo.sort(key=lambda section: any(status(name) == "failed" for name in section.names))
    for section in todo:
        missing = [name for name in section.names if status(name) not in FINAL]
        if clock.left() < max(section.least_s, 1.0):
            left = max(clock.left(), 0.0)
            note = f"not begun: {left:.0f} s left, it takes {section.least_s:.0f} or more"
            fail([name for name in missing if not status(name)], {"status": "left", "note": note})
            save()
            continue
        start = time.monotonic()
        print(f"{section.names[0]} ({clock.left():.0f} s left)", flush=True)
        try:
            for name, row in section.run():
                took_s = round(time.monotonic() - start, 1)
                put(name, {"status": "done", **row, "took_s": took_s})
                missing = [other for other in missing if other != name]
                save()
        except OutOfTime:
            fail(missing, {"status": "left", "note": "cut off when the time was over"})
        except WorkerError as error:
            kind = "no memory" if error.out_of_memory else "failed"
            fail(missing, {"status": kind, "note": str(error)})
        save()


class Bench:
    """The sections; `first` is the training step that is profiled and compared, `cases` the rest.

    Cases are dictionaries of batch and remat.
    """

    def __init__(
        self,
        processes: Processes,
        first: Row,
        cases: list[Row],
        *,
        tiny: bool,
        steps: int,
        trace: Path,
    ):
        self.processes, self.first, self.cases = processes, first, cases
        self.tiny, self.steps, self.trace = tiny, steps, trace

    def list_sections(self) -> list[Section]:
        """Return the sections by worth, with the least seconds that each takes on an H200."""
        scale = 0 if self.tiny else 1
        one = name_case(self.first)
        runs: list[tuple[tuple[str, ...], float, Callable[[], Rows]]] = [
            (("device",), 10, self.run_device),
            (("check attention",), 20, lambda: self.run_once("check attention")),
            ((one, KERNELS, VERSUS), 120, self.compare_training),
            (("sampling", SAMPLING), 60, self.compare_sampling),
            (("check convolution",), 15, lambda: self.run_once("check convolution")),
            (("check step",), 30, lambda: self.run_once("check step")),
        ]
        runs += [
            ((name_case(case),), 60, functools.partial(self.train, case)) for case in self.cases
        ]
        return [
            Section(names, scale * least_s, functools.partial(self.retry_without_triton, run))
            for names, least_s, run in runs
        ]

    def retry_without_triton(self, run: Callable[[], Rows]) -> Rows:
        """Yield a section's rows; once more with cuBLAS's products if XLA cannot tile Triton's."""
        try:
            yield from run()
        except WorkerError as error:
            if NO_TILES not in str(error):
                raise
            self.processes.triton = False
            try:
                for name, row in run():
                    yield name, {"note": "without Triton products", **row}
            finally:
                self.processes.triton = True

    def run_once(self, kind: str) -> Rows:
        """Yield the answer of a worker without turns."""
        with self.processes.start({"kind": kind, "tiny": self.tiny}) as worker:
            yield kind, worker.read()

    def run_device(self) -> Rows:
        """Yield device and ceilings; without omfa's XLA flags where this XLA does not know them."""
        note = ""
        try:
            [(name, row)] = self.run_once("device")
        except WorkerError as error:
            if "nknown flag" not in str(error) or not self.processes.flags:
                raise
            self.processes.flags = False
            note = f"without omfa's XLA flags: {error}"
            [(name, row)] = self.run_once("device")
        yield name, row | ({"note": note} if note else {})

    def train(self, case: Row) -> Rows:
        """Yield one training step, in a process of its own."""
        with self.processes.start({"kind": "train", "tiny": self.tiny, **case}) as worker:
            yield name_case(case), self.time_training(worker, case)

    def time_training(self, worker: Worker, case: Row) -> Row:
        """Return the facts, two turns and the peak memory."""
        facts = worker.read()
        turns = [self.turn(worker, self.steps) for _ in range(2)]
        return {**case, **facts, "turns": turns, **worker.ask("peak")}

    def compare_training(self) -> Rows:
        """Yield our first case, its profile, and diffusers' step in turn with it."""
        spec = {"tiny": self.tiny, **self.first}
        with self.processes.start({"kind": "train", **spec}, shares=True) as ours:
            yield name_case(self.first), self.time_training(ours, self.first)
            try:
                yield KERNELS, ours.ask(f"profile {self.trace}")
            except WorkerError as error:
                yield KERNELS, {"status": "failed", "note": str(error)}
            yield (
                VERSUS,
                self.first | self.compare(ours, {"kind": "torch_train", **spec}, self.steps),
            )

    def compare_sampling(self) -> Rows:
        """Yield our sampler, and diffusers' in turn with it."""
        spec = {"steps": 2 if self.tiny else 50, "tiny": self.tiny}
        count = 1 if self.tiny else PICTURES
        with self.processes.start({"kind": "sample", **spec}, shares=True) as ours:
            row = {**spec, **ours.read()}
            turns = [self.turn(ours, count) for _ in range(2)]
            yield "sampling", {**row, "turns": turns, **ours.ask("peak")}
            yield SAMPLING, spec | self.compare(ours, {"kind": "torch_sample", **spec}, count)

    def compare(self, ours: Worker, spec: Row, count: int) -> Row:
        """Return turns of ours and of diffusers' side, started now; or why there is none."""
        reason = self.find_reason_to_skip()
        if reason:
            return {"status": "skipped", "note": reason}
        with self.processes.start(spec, shares=True) as theirs:
            return self.alternate(ours, theirs, count)

    def alternate(self, ours: Worker, theirs: Worker, count: int) -> Row:
        """Return turns of both sides (A B A B), and what diffusers' says of itself."""
        facts = theirs.read()
        turns: dict[str, list[float]] = {"ours": [], "diffusers": []}
        for _ in range(ROUNDS):
            turns["ours"].append(self.turn(ours, count))
            turns["diffusers"].append(self.turn(theirs, count))
        return {"turns": turns, "diffusers": facts | theirs.ask("peak")}

    def turn(self, worker: Worker, count: int) -> float:
        """Return the seconds of one step or picture of a turn."""
        return worker.ask(f"turn {count}")["seconds"]

    def find_reason_to_skip(self) -> str:
        """Return why diffusers cannot be compared with; "" if it can."""
        try:
            with self.processes.start({"kind": "torch", "tiny": self.tiny}) as worker:
                found = worker.read()
        except WorkerError as error:
            return f"torch with diffusers is not there ({error}); add it to PYTHONPATH and --again"
        if found["device"] == "cpu" and not self.tiny:
            return f"torch {found['torch']} sees no GPU; install one with CUDA and --again"
        return ""


def name_case(case: Row) -> str:
    """Return a training step's name in the report."""
    return f"train batch {case['batch']} remat {case['remat']}"
