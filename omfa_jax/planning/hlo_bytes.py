"""Bytes that a compiled program's instructions move between the main memory and the chip."""

from omfa_jax.planning.hlo_text import Computation, Instruction, Program

# they name or regroup what is in memory already
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "domain",
}
SLICES = ("slice", "dynamic-slice", "gather")
# same bytes in another order or type
VIEWS = ("bitcast", "reshape", "convert", "copy", "transpose")


def count_bytes(program: Program, here: Computation, one: Instruction) -> tuple[float, float]:
    """Return the bytes that an instruction reads and writes; of a fusion, at its borders.

    A slice reads what it keeps, an update in place writes what it changes.
    """
    if one.opcode in FREE or one.opcode.endswith("-done"):
        return 0.0, 0.0
    if one.opcode == "fusion":
        inner = program.computations.get(one.get("calls").lstrip("%"))
        if inner is not None:
            return _count_fusion(here, one, inner)
    sizes = [
        here.instructions[name].out_bytes if name in here.instructions else 0.0
        for name in one.operands
    ]
    if one.opcode in SLICES:
        return one.out_bytes + sum(sizes[1:]), one.out_bytes
    if one.opcode == "dynamic-update-slice":
        return sizes[1], sizes[1]
    if one.opcode == "scatter":
        return 2 * sum(sizes[2:]) + sizes[1], sum(sizes[2:])
    if one.opcode == "copy-start":
        # its result holds the copy, the operand and a token
        copy = one.arrays[0].stored_bytes
        return sizes[0], copy
    return sum(sizes), one.out_bytes


def _count_fusion(here: Computation, one: Instruction, inner: Computation) -> tuple[float, float]:
    parameters = inner.parameters
    read = 0.0
    for number, name in enumerate(one.operands):
        operand = here.instructions.get(name)
        if operand is None:
            continue
        parameter = parameters.get(number)
        part = _count_read(inner, parameter.name) if parameter else None
        read += operand.out_bytes if part is None else min(part, operand.out_bytes)
    root = inner.root
    parts = [inner.instructions[name] for name in root.operands if name in inner.instructions]
    outputs = parts if root.opcode == "tuple" and len(parts) == len(one.arrays) else [root]
    if len(outputs) != len(one.arrays):
        return read, one.out_bytes
    written = 0.0
    for output, array in zip(outputs, one.arrays, strict=True):
        update = _find_update(inner, output)
        share = update.arrays[0].elements / max(1, array.elements) if update else 1.0
        written += array.stored_bytes * min(1.0, share)
    return read, written


def _count_read(inner: Computation, name: str, depth: int = 0) -> float | None:
    """Return the bytes that are read of a parameter; None if it is all of them."""
    total = 0.0
    for user in inner.users.get(name, []):
        if user.opcode in SLICES and user.operands[0] == name:
            total += user.arrays[0].elements * user.arrays[0].itemsize
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            # updated in place
            continue
        elif user.opcode in VIEWS and depth < 8:
            part = _count_read(inner, user.name, depth + 1)
            if part is None:
                return None
            total += part
        else:
            return None
    return total if inner.users.get(name) else None


def _find_update(inner: Computation, output: Instruction) -> Instruction | None:
    """Return what a dynamic-update-slice at a fusion's end writes; None if there is none."""
    one: Instruction | None = output
    while one is not None and one.opcode in VIEWS and one.operands:
        one = inner.instructions.get(one.operands[0])
    if one is None or one.opcode != "dynamic-update-slice":
        return None
    return inner.instructions.get(one.operands[1])
