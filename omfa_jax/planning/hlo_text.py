"""The text of a compiled XLA program as instructions, with their shapes and source lines."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"^  +(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_ENTRY = re.compile(r"^(\d+) (.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BITS = re.compile(r"[a-z]+(\d+)")
_SECTIONS = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclass(frozen=True)
class Array:
    """An array of a program: element type, dimensions, and its layout's text ("" if none)."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def itemsize(self) -> float:
        """Bytes of an element; half a byte for int4, none for tokens."""
        if self.dtype == "pred":
            return 1
        found = _BITS.match(self.dtype)
        bits = int(found[1]) if found else 0
        return (2 * bits if self.dtype.startswith("c") else bits) / 8

    @cached_property
    def stored_bytes(self) -> float:
        """Bytes in the device's main memory: whole tiles on TPUs, 0 if it stays in the chip."""
        if "S(" in self.layout and "S(5)" not in self.layout:
            return 0
        tile = _TILE.search(self.layout)
        dims = list(self.dims)
        if tile and dims:
            order = [int(n) for n in self.layout.split(":")[0].split(",") if n]
            for place, size in zip(order, reversed(tile[1].split(",")), strict=False):
                dims[place] = -(-dims[place] // int(size)) * int(size)
        return math.prod(dims) * self.itemsize


@dataclass
class Instruction:
    """One line of a program; `attributes` is its text after the operands."""

    name: str
    arrays: list[Array]
    opcode: str
    operands: list[str]
    attributes: str
    literal: str = ""
    is_root: bool = False

    @property
    def out_bytes(self) -> float:
        """Bytes of the result in main memory."""
        return sum(array.stored_bytes for array in self.arrays)

    @property
    def op_name(self) -> str:
        """JAX's path of the operation; "" if the compiler added it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        branches = _BRANCHES.search(self.attributes)
        return _CALLED.findall(self.attributes) + (_NAME.findall(branches[1]) if branches else [])

    def get(self, attribute: str) -> str:
        """Return an attribute's word or braced text; "" if it is missing."""
        found = re.search(rf"\b{attribute}=(\{{[^{{}}]*\}}|[\w.\-%>]+)", self.attributes)
        return found[1] if found else ""


@dataclass
class Computation:
    """A function of a program, in the order in which it is scheduled."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the function's."""
        return next((one for one in self if one.is_root), list(self)[-1])

    @property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(one.literal): one for one in self if one.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that read each one, by its name."""
        found: dict[str, list[Instruction]] = {}
        for one in self:
            for operand in dict.fromkeys(one.operands):
                found.setdefault(operand, []).append(one)
        return found


@dataclass
class Program:
    """A compiled program; `frames` maps a stack frame to (file, line, function, parent frame)."""

    computations: dict[str, Computation]
    entry: str
    frames: dict[int, tuple[str, int, str, int]]

    def count_trips(self, loop: Instruction) -> int | None:
        """Return how often a while loop runs; None if neither its text nor its condition tells."""
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations.get(loop.get("condition").lstrip("%"))
        # a scan's condition compares its counter with one constant
        limits = [
            int(one.literal)
            for one in condition or ()
            if one.opcode == "constant" and one.literal.isdigit()
        ]
        return max(limits) if limits else None

    def find_frames(self, one: Instruction) -> list[tuple[str, int, str]]:
        """Return (file, line, function) of an instruction, innermost first."""
        direct = re.search(r'source_file="([^"]*)"(?: source_line=(\d+))?', one.attributes)
        found = re.search(r"stack_frame_id=(\d+)", one.attributes)
        frames, at = [], int(found[1]) if found else 0
        while at in self.frames and len(frames) < 200:
            file, line, function, at = self.frames[at]
            frames.append((file, line, function))
        if not frames and direct:
            frames = [(direct[1], int(direct[2] or 0), "")]
        return frames


def parse_program(text: str) -> Program:
    """Return the instructions of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {name: {} for name in _SECTIONS}
    here, entry, section = Computation(""), "", ""
    lines: list[str] = []

    def finish() -> None:
        if lines:
            one = _parse_instruction(" ".join(lines))
            if one:
                here.instructions[one.name] = one
            lines.clear()

    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and " = " not in line.split("(")[0]:
            finish()
            section = ""
            here = computations.setdefault(header[2], Computation(header[2]))
            entry = header[2] if header[1] else entry
        elif line in _SECTIONS:
            section = line
        elif section:
            row = _ENTRY.match(line)
            if row:
                tables[section][int(row[1])] = row[2]
        elif _START.match(line):
            finish()
            lines.append(line)
        elif line == "}":
            finish()
        elif lines:
            # kernels' metadata holds line breaks
            lines.append(line)
    return Program(computations, entry, _read_frames(tables))


def _parse_instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if start is None:
        return None
    at = start.end()
    end = _find_close(line, at) + 1 if line[at] == "(" else line.index(" ", at)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        return None
    close = _find_close(line, opcode.end() - 1)
    inside = line[opcode.end() : close]
    return Instruction(
        name=start[2],
        arrays=parse_arrays(line[at:end]),
        opcode=opcode[1],
        operands=[] if opcode[1] in ("constant", "parameter") else _NAME.findall(inside),
        attributes=line[close + 1 :],
        literal=inside if opcode[1] in ("constant", "parameter") else "",
        is_root=bool(start[1]),
    )


def parse_arrays(text: str) -> list[Array]:
    """Return the arrays of a type, a tuple's in their order."""
    return [
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), layout or "")
        for dtype, dims, layout in _ARRAY.findall(text)
    ]


def _find_close(line: str, at: int) -> int:
    """Return where the parenthesis at `at` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, at):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(line) - 1


def _read_frames(tables: dict[str, dict[int, str]]) -> dict[int, tuple[str, int, str, int]]:
    def read(text: str, name: str) -> int:
        found = re.search(rf"\b{name}=(\d+)", text)
        return int(found[1]) if found else 0

    parents = {at: read(text, "parent_frame_id") for at, text in tables["StackFrames"].items()}
    # XLA prints parents counted from one more than the frames: then the first is its own parent
    shift = 1 if parents.get(1) == 1 else 0
    frames = {}
    for at, text in tables["StackFrames"].items():
        location = tables["FileLocations"].get(read(text, "file_location_id"), "")
        file = tables["FileNames"].get(read(location, "file_name_id"), "").strip('"')
        function = tables["FunctionNames"].get(read(location, "function_name_id"), "").strip('"')
        frames[at] = (file, read(location, "line"), function, parents[at] - shift)
    return frames
