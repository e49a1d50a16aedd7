"""A compiled step's time by roofline: each operation's max of products, memory and network."""

import re
from dataclasses import dataclass, field

from omfa_jax.planning.hlo_bytes import FREE, count_bytes
from omfa_jax.planning.hlo_collectives import KINDS, compute_received_bytes, find_group_size
from omfa_jax.planning.hlo_products import count_product_flops, get_target
from omfa_jax.planning.hlo_text import Array, Computation, Instruction, Program, parse_program
from omfa_jax.planning.network_parts import find_part, find_source_line
from omfa_jax.planning.roofline_machine import Machine

CALLS = ("call", "async-start")


@dataclass
class Operation:
    """One operation of a step, as often as it runs.

    `flops` of products by element type, `read` and `written` bytes of main memory, `received` of
    the network, all of one run; `seconds` of one run, of which `hidden` pass behind others.
    """

    name: str
    opcode: str
    part: str
    line: str
    runs: int
    flops: dict[str, float] = field(default_factory=dict)
    read: float = 0.0
    written: float = 0.0
    received: float = 0.0
    product_seconds: float = 0.0
    memory_seconds: float = 0.0
    network_seconds: float = 0.0
    hidden: float = 0.0
    unknown: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of one run."""
        return max(self.product_seconds, self.memory_seconds, self.network_seconds)

    @property
    def visible_seconds(self) -> float:
        """Seconds that all runs add to the step."""
        return self.runs * (self.seconds - self.hidden)

    @property
    def bound(self) -> str:
        """What the time is spent on: "compute", "memory" or "network"."""
        times = {
            "compute": self.product_seconds,
            "memory": self.memory_seconds,
            "network": self.network_seconds,
        }
        return max(times, key=lambda name: times[name])


@dataclass
class Roofline:
    """All operations of a step; `notes` say what the text did not tell."""

    operations: list[Operation]
    notes: list[str]

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return sum(one.visible_seconds for one in self.operations)

    @property
    def flops(self) -> float:
        """FLOPs of all products of one device."""
        return sum(one.runs * sum(one.flops.values()) for one in self.operations)

    @property
    def moved_bytes(self) -> float:
        """Bytes that are read from and written to main memory."""
        return sum(one.runs * (one.read + one.written) for one in self.operations)


def compute_roofline(text: str, machine: Machine) -> Roofline:
    """Return the roofline of `compiled.as_text()`, of one device.

    Loops count as often as they run. Asynchronous collectives and copies hide behind what is
    scheduled between their start and their end, as far as that leaves the network or memory idle.
    Of elementwise operations the bytes alone are timed.
    """
    program = parse_program(text)
    walk = _Walk(program, machine)
    if program.entry in program.computations:
        walk.visit(program.computations[program.entry], 1)
    return Roofline(walk.operations, walk.make_notes())


class _Walk:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.program, self.machine = program, machine
        self.operations: list[Operation] = []
        self.endless: list[str] = []

    def make_notes(self) -> list[str]:
        """Return a line for each kind of thing that could not be counted."""
        kernels: dict[str, int] = {}
        for one in self.operations:
            if one.unknown:
                kernels[one.unknown] = kernels.get(one.unknown, 0) + one.runs
        notes = [
            f"the FLOPs of {runs} runs of {name} are not known: timed by their bytes alone"
            for name, runs in kernels.items()
        ]
        if self.endless:
            notes.append(
                f"{len(self.endless)} loops do not say how often they run and count once:"
                f" {', '.join(self.endless[:3])}"
            )
        return notes

    def visit(self, here: Computation, runs: int) -> None:
        """Add the operations of a computation, in order, and hide what is asynchronous."""
        started: dict[str, tuple[Operation, int]] = {}
        timeline: list[tuple[Operation, int]] = []
        for one in here:
            if one.opcode in FREE:
                continue
            if one.opcode == "while":
                trips = self.program.count_trips(one)
                if trips is None:
                    self.endless.append(one.name)
                first = len(self.operations)
                for name in ("body", "condition"):
                    inner = self.program.computations[one.get(name).lstrip("%")]
                    self.visit(inner, runs * (trips or 1))
                timeline += [(op, runs) for op in self.operations[first:]]
                continue
            if one.opcode in ("call", "conditional"):
                first = len(self.operations)
                # of a conditional's branches all count: an upper bound
                for name in one.called:
                    self.visit(self.program.computations[name], runs)
                timeline += [(op, runs) for op in self.operations[first:]]
                continue
            if _is_done(one):
                begun = next((started.pop(n) for n in one.operands if n in started), None)
                if begun:
                    self.hide(begun[0], timeline[begun[1] :])
                continue
            made = self.measure(here, one, runs)
            self.operations.append(made)
            if _is_start(one):
                started[one.name] = (made, len(timeline))
            else:
                timeline.append((made, runs))

    def hide(self, waiting: Operation, behind: list[tuple[Operation, int]]) -> None:
        """Hide an asynchronous operation behind others, which leave its resource idle."""
        left = waiting.seconds - waiting.hidden
        for other, runs in behind:
            if left <= 0:
                break
            network = waiting.network_seconds > 0
            used = other.network_seconds if network else other.memory_seconds
            taken = self.taken.setdefault((id(other), network), 0.0)
            idle = other.runs / runs * (other.seconds - other.hidden - used) - taken
            share = min(left, max(0.0, idle))
            self.taken[id(other), network] = taken + share
            waiting.hidden += share
            left -= share

    @property
    def taken(self) -> dict[tuple[int, bool], float]:
        """Seconds of an operation in which others were hidden already."""
        return self.__dict__.setdefault("_taken", {})

    def measure(self, here: Computation, one: Instruction, runs: int) -> Operation:
        """Return an instruction's costs and times."""
        products, names, unknown = self.find_products(here, one)
        collective = self.find_collective(one)
        lead = max(products, key=lambda found: found[2])[3] if products else one
        # the product says more than what is fused around it
        lead = lead if lead.op_name else one
        source = lead if self.program.find_frames(lead) else self.find_neighbour(here, lead)
        made = Operation(
            one.name,
            one.opcode,
            find_part(self.program, one, lead, names, is_collective=collective is not None),
            find_source_line(self.program, source),
            runs,
            unknown=unknown,
        )
        made.read, made.written = count_bytes(self.program, here, one)
        for dtype, precision, flops, _ in products:
            made.flops[dtype] = made.flops.get(dtype, 0.0) + flops
            made.product_seconds += flops / self.machine.get_flops(dtype, precision)
        made.memory_seconds = (made.read + made.written) / self.machine.memory_bandwidth
        if collective:
            made.received, devices = collective
            made.network_seconds = made.received / self.machine.get_network(devices)
        return made

    def find_neighbour(self, here: Computation, one: Instruction) -> Instruction:
        """Return what an instruction without a line reads, or else what reads it, with a line.

        The compiler gives none to the copies and collectives that it adds; itself if none has one.
        """
        before, after = one, one
        for _ in range(6):
            before = next(
                (here.instructions[n] for n in before.operands if n in here.instructions), before
            )
            after = next(iter(here.users.get(after.name, [])), after)
            for near in (before, after):
                if near.opcode not in FREE and self.program.find_frames(near):
                    return near
        return one

    def find_products(
        self, here: Computation, one: Instruction
    ) -> tuple[list[tuple[str, str, float, Instruction]], set[str], str]:
        """Return products (type, precision, FLOPs, instruction), opcodes, and an unknown kernel."""
        found: list[tuple[str, str, float, Instruction]] = []
        opcodes, unknown = {one.opcode}, ""
        inputs: list[list[Array]] = [
            here.instructions[name].arrays if name in here.instructions else []
            for name in one.operands
        ]
        flops = count_product_flops(one, inputs)
        if flops is None:
            unknown = get_target(one) or one.opcode
        elif flops:
            types = {part[0].dtype for part in inputs[:2] if part}
            precision = one.get("operand_precision").strip("{}").split(",")[0]
            # of mixed types the wider one is multiplied
            wide = types & {"f32", "f64"} or types
            found.append((min(wide, default="f32"), precision, flops, one))
        if one.opcode in ("fusion", *CALLS):
            for name in one.called:
                inner = self.program.computations.get(name)
                for part in inner or ():
                    more, names, other = self.find_products(inner, part)  # type: ignore[arg-type]
                    found += more
                    opcodes |= names
                    unknown = unknown or other
        return found, opcodes, unknown

    def find_collective(self, one: Instruction) -> tuple[float, int] | None:
        """Return the bytes that a collective receives and its devices; None for other things."""
        kind = re.sub(r"-start$", "", one.opcode)
        if kind in KINDS:
            size = int(sum(a.elements * a.itemsize for a in one.arrays))
            group = find_group_size(one.attributes)
            started = kind != one.opcode
            return compute_received_bytes(kind, size, group, started=started), group
        if one.opcode not in ("fusion", *CALLS):
            return None
        for name in one.called:
            for part in self.program.computations.get(name, ()):
                if part.opcode in KINDS:
                    size = int(sum(a.elements * a.itemsize for a in part.arrays))
                    group = find_group_size(part.attributes)
                    scatters = "all-reduce-scatter" in name
                    received = compute_received_bytes(part.opcode, size, group, scatters=scatters)
                    return received, group
        return None


def _is_start(one: Instruction) -> bool:
    return one.opcode.endswith("-start")


def _is_done(one: Instruction) -> bool:
    return one.opcode.endswith("-done")
