"""Collectives in the text of a compiled XLA program; loop bodies count once per iteration."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
ITEMSIZES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_GROUPS = [
    # XLA's forms: [groups,size]<=[...]; {{0,1},{2,3}}; mesh['a'=8,'b'=1] {'a'}, where
    # device_ids=([2,4]T(1,0)) may come between
    re.compile(r"replica_groups=\[\d+,(\d+)\]<="),
    re.compile(r"replica_groups=\{\{([\d,]+)\}"),
    re.compile(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(.*?\))? \{(.*?)\}"),
]


@dataclass
class CollectiveTraffic:
    """How often a kind of collective runs, and the bytes that a device receives in all of them."""

    runs: int = 0
    received_bytes: int = 0


@dataclass
class _Computation:
    own: list[tuple[str, int]] = field(default_factory=list)
    called: list[tuple[str, int]] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)


def parse_collectives(text: str) -> dict[str, CollectiveTraffic]:
    """Return the traffic of one run of a compiled program, by kind (see `compiled.as_text()`)."""
    computations, entry = _parse(text)
    found: dict[str, CollectiveTraffic] = defaultdict(CollectiveTraffic)

    def count(name: str, times: int) -> None:
        here = computations.get(name)
        if here is None:
            return
        for kind, received in here.own:
            found[kind].runs += times
            found[kind].received_bytes += times * received
        for called, runs in here.called:
            count(called, times * runs)

    count(entry, 1)
    return dict(found)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    loops: list[tuple[_Computation, str, str, str]] = []
    here, name, entry = _Computation(), "", ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name = header[2]
            here = computations.setdefault(name, _Computation())
            entry = header[2] if header[1] else entry
            continue
        constant = _CONSTANT.search(line)
        if constant:
            here.constants.append(int(constant[1]))
        collective = _COLLECTIVE.search(line)
        if collective:
            here.own.append(
                _parse_collective(line, collective, scatters="all-reduce-scatter" in name)
            )
        loop = _WHILE.search(line)
        if loop:
            loops.append((here, loop[1], loop[2], line))
        else:
            here.called += [(name, 1) for name in _CALLED.findall(line)]
    for owner, condition, body, line in loops:
        known = _TRIPS.search(line)
        # without a known trip count: a scan's condition compares its counter with one constant
        limits = computations.get(condition, _Computation()).constants
        owner.called.append((body, int(known[1]) if known else max(limits, default=1)))
    return computations, entry


def _parse_collective(line: str, collective: re.Match[str], *, scatters: bool) -> tuple[str, int]:
    """Return a collective's kind and the bytes that a device receives in it.

    `scatters`: an all-reduce within a fusion that keeps the device's part only, the TPU compiler's
    form of a reduce-scatter.
    """
    kind, started = collective[2], bool(collective[3])
    size = sum(
        math.prod(map(int, filter(None, dims.split(",")))) * ITEMSIZES.get(kind_of, 4)
        for kind_of, dims in _ARRAY.findall(collective[1])
    )
    group = find_group_size(line)
    received = compute_received_bytes(kind, size, group, started=started, scatters=scatters)
    return ("reduce-scatter" if scatters and kind == "all-reduce" else kind), received


def compute_received_bytes(
    kind: str, size: int, group: int, *, started: bool = False, scatters: bool = False
) -> int:
    """Return what a device of `group` receives in a collective whose result has `size` bytes.

    `started`: the result is that of an asynchronous start, which holds the operand too.
    """
    if kind == "collective-permute":
        return size // 2 if started else size
    if kind == "all-reduce":
        return (1 if scatters else 2) * (size * (group - 1) // group)
    if started:
        # an async start's type holds operand and result: 1 + group parts
        return size * (group - 1) // (group + 1)
    if kind == "reduce-scatter":
        return size * (group - 1)
    return size * (group - 1) // group


def find_group_size(line: str) -> int:
    """Return how many devices take part in a collective together, 1 if its text does not say."""
    sized, listed, meshed = (pattern.search(line) for pattern in _GROUPS)
    if sized:
        return int(sized[1])
    if listed:
        return listed[1].count(",") + 1
    if meshed:
        axes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        return math.prod(int(axes[name]) for name in re.findall(r"'(\w+)'", meshed[2]))
    return 1
