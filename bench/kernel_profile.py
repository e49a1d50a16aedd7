"""Kernels of a `jax.profiler` trace with their times, and the source lines they come from."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# of the trace viewer's rows that repeat what the streams hold
DERIVED = re.compile(
    r"^(XLA |Framework|Steps|TensorFlow|Source|Launch Stats|CUDA Graph|Derived|Python|python)", re.I
)
# CPU threads that run XLA's operations; the others wait for them
CPU_THREAD = re.compile(r"XLAEigen|XLAPjRtCpuClient|XLATfrtCpu|tf_XLA|intra", re.I)
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ", re.M)
SOURCE_FILE = re.compile(r'source_file="([^"]*)"(?: source_line=(\d+))?')
# jaxlib 0.10 and newer: frames by number, in tables at the top of the text
FRAME = re.compile(r"stack_frame_id=(\d+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass
class KernelEvent:
    """All runs of one kernel for one HLO operation."""

    name: str
    operation: str
    seconds: float
    count: int
    source: str = ""
    op_name: str = ""


def read_profile(folder: Path) -> list[KernelEvent]:
    """Return the device's kernels of the newest trace under `folder`, the dearest first.

    Reads `*.xplane.pb` where JAX has a reader for it, else `*.trace.json.gz`. Without a GPU, the
    operations that XLA's CPU threads ran. ValueError if there is no trace, or no kernel in it.
    """
    planes = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    reader = _find_reader()
    if planes and reader is not None:
        found = _sum_events(_iterate_planes(reader.from_file(str(planes[-1]))))
        source = planes[-1]
    elif traces:
        found = _sum_events(_iterate_trace(json.loads(gzip.decompress(traces[-1].read_bytes()))))
        source = traces[-1]
    else:
        raise ValueError(f"no *.xplane.pb or *.trace.json.gz under {folder}")
    if not found:
        raise ValueError(f"{source.name} has no kernels: is CUPTI there?")
    return found


def _find_reader() -> Any:
    import jax

    return getattr(jax.profiler, "ProfileData", None)


def _iterate_planes(data: Any) -> Iterator[tuple[str, str, float]]:
    """Yield (name, HLO operation, seconds) of each event of the device's streams."""
    planes = list(data.planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in gpus or [plane for plane in planes if plane.name.startswith("/host:CPU")]:
        for line in plane.lines:
            name = line.name or ""
            if DERIVED.match(name) or not (gpus or CPU_THREAD.search(name)):
                continue
            for event in line.events:
                stats = {key: value for key, value in event.stats if key is not None}
                operation = str(stats.get("hlo_op", ""))
                if gpus or _is_leaf(operation):
                    yield event.name, operation, event.duration_ns / 1e9


def _iterate_trace(trace: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield the same of a Chrome trace."""
    processes, threads = {}, {}
    for event in trace["traceEvents"]:
        if event.get("ph") == "M" and event["name"] == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        if event.get("ph") == "M" and event["name"] == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    gpus = {pid for pid, name in processes.items() if "/device:GPU" in name}
    for event in trace["traceEvents"]:
        if event.get("ph") != "X":
            continue
        thread = threads.get((event["pid"], event["tid"]), "")
        on_device = event["pid"] in gpus if gpus else bool(CPU_THREAD.search(thread))
        operation = str(event.get("args", {}).get("hlo_op", ""))
        if on_device and not DERIVED.match(thread) and (gpus or _is_leaf(operation)):
            yield event["name"], operation, event.get("dur", 0.0) / 1e6


def _is_leaf(operation: str) -> bool:
    """Return whether a CPU's event is an operation that does not contain others."""
    return bool(operation) and not operation.startswith(("while", "call", "conditional"))


def _sum_events(events: Iterable[tuple[str, str, float]]) -> list[KernelEvent]:
    total: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for name, operation, seconds in events:
        entry = total[name, operation]
        entry[0] += seconds
        entry[1] += 1
    found = [KernelEvent(*key, seconds, int(count)) for key, (seconds, count) in total.items()]
    return sorted(found, key=lambda event: -event.seconds)


def find_sources(hlo: str) -> dict[str, tuple[str, str]]:
    """Return (source file and line, name in the network) of each instruction of a program's text.

    Files are relative to the package's parent folder. An instruction without metadata is left out.
    """
    frames = _read_frames(hlo)
    found = {}
    for line in hlo.splitlines():
        instruction = INSTRUCTION.match(line)
        if instruction is None or "metadata={" not in line:
            continue
        file, frame, name = SOURCE_FILE.search(line), FRAME.search(line), OP_NAME.search(line)
        source = ""
        if file is not None:
            source = f"{_shorten(file[1])}:{file[2] or '?'}"
        elif frame is not None:
            source = frames.get(int(frame[1]), "")
        found[instruction[1]] = (source, name[1] if name else "")
    return found


def attach_sources(events: Iterable[KernelEvent], hlo: str) -> None:
    """Give events the source lines and places of their operations, from a program's text.

    A kernel in a CUDA graph does not name its operation; XLA's own kernels are called like theirs.
    """
    sources = find_sources(hlo)
    by_kernel = {re.sub(r"[.\-]", "_", name): found for name, found in sources.items()}
    for event in events:
        found = sources.get(event.operation) or by_kernel.get(event.name, ("", ""))
        event.source, event.op_name = found


def _read_frames(hlo: str) -> dict[int, str]:
    """Return file and line of each frame in the tables FileNames, FileLocations, StackFrames.

    Of a frame in a library, the line of this package that called it.
    """
    files, locations, leaves, parents, table = {}, {}, {}, {}, ""
    for line in hlo.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = line
        elif match := re.match(r"^(\d+) (.*)$", line) if table else None:
            number, fields = int(match[1]), dict(re.findall(r"(\w+)=(\d+)", match[2]))
            if table == "FileNames":
                files[number] = _shorten(match[2].strip('"'))
            elif table == "FileLocations":
                file = files.get(int(fields.get("file_name_id", 0)), "?")
                locations[number] = f"{file}:{fields.get('line', '?')}"
            elif table == "StackFrames":
                leaves[number] = locations.get(int(fields.get("file_location_id", 0)), "")
                parents[number] = int(fields.get("parent_frame_id", 0))
        elif line.startswith(("%", "ENTRY")):
            break

    # jaxlib 0.10 prints a parent's number plus one: the root, 1, would be its own parent
    offset = 1 if parents.get(1) == 1 else 0

    def find_own(number: int) -> str:
        seen, frame = set(), number
        while frame in leaves and frame not in seen:
            if leaves[frame].startswith("omfa_jax/"):
                return leaves[frame]
            seen.add(frame)
            frame = parents[frame] - offset
        return leaves[number]

    return {number: find_own(number) for number in leaves}


def _shorten(path: str) -> str:
    return re.sub(r"^.*/(?=(omfa_jax|bench|site-packages|dist-packages)/)", "", path)


def sum_by(events: Iterable[KernelEvent], field: str) -> list[dict[str, Any]]:
    """Return rows of seconds and runs, summed over a field of the events, the dearest first.

    Each row names the source, the operation and the place in the network of its dearest event.
    """
    rows: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: -event.seconds):
        row = rows.setdefault(
            getattr(event, field) or "(unknown)",
            {
                "kernel": event.name,
                "operation": event.operation,
                "source": event.source,
                "op_name": event.op_name,
                "seconds": 0.0,
                "count": 0,
            },
        )
        row["seconds"] += event.seconds
        row["count"] += event.count
    return sorted(rows.values(), key=lambda row: -row["seconds"])
