"""To which part of the network an operation of a compiled step belongs, and to which line."""

import re

from omfa_jax.planning.hlo_text import Instruction, Program

PARTS = (
    "convolution",
    "linear",
    "attention",
    "norms",
    "other elementwise",
    "copies and transposes",
    "optimizer",
    "collectives",
)
MOVES = {
    *("copy", "transpose", "reshape", "bitcast", "slice", "dynamic-slice", "concatenate", "pad"),
    *("dynamic-update-slice", "copy-start", "reverse", "parameter", "tuple", "fusion"),
    *("get-tuple-element", "constant"),
}
# the arithmetic of a slice's place
INDICES = {"add", "subtract", "multiply", "compare", "select", "clamp", "maximum", "minimum"}


def find_part(
    program: Program,
    one: Instruction,
    lead: Instruction,
    opcodes: set[str],
    *,
    is_collective: bool,
) -> str:
    """Return the part (of PARTS) of an operation.

    `lead` is the product that it holds, or itself; `opcodes` all that is fused in it.
    """
    if is_collective:
        return "collectives"
    if lead.opcode not in ("dot", "convolution", "custom-call") and opcodes <= MOVES:
        return "copies and transposes"
    path = lead.op_name
    frames = program.find_frames(lead)
    if any("/optax/" in file or function == "apply_gradients" for file, _, function in frames):
        return "optimizer"
    if re.search(r"splash|fmha|attention_kernel|dot_product_attention|softmax", path + lead.name):
        return "attention"
    if lead is not one or lead.opcode in ("dot", "convolution", "custom-call"):
        if any(file.endswith("convolution.py") for file, _, _ in frames) or "conv_gen" in path:
            return "convolution"
        # its projections are in a function that attends, with the products of attention beside it
        own = next((frame for frame in frames if "-packages/" not in frame[0]), ("", 0, ""))
        if own[0].endswith("/attention.py") and not own[2].startswith("attend"):
            return "attention"
        return "linear"
    if re.search(r"norm", path):
        return "norms"
    return "other elementwise"


def find_source_line(program: Program, one: Instruction) -> str:
    """Return "file:line function" of an operation, of the innermost line outside of libraries."""
    frames = program.find_frames(one)
    own = [frame for frame in frames if "-packages/" not in frame[0]] or frames
    if not own:
        return f"(no line: {one.op_name or one.opcode})"
    file, line, function = own[0]
    file = re.sub(r"^.*/(omfa_jax|site-packages)/", r"\1/", file)
    return f"{file}:{line} {function}".strip()
