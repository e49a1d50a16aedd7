"""A roofline as text and as JSON: the step's time, its parts and its dearest source lines."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omfa_jax.planning.job import Plan
from omfa_jax.planning.network_parts import PARTS
from omfa_jax.planning.roofline import Operation, Roofline

DEAREST = 20


@dataclass
class LineCost:
    """What a source line costs in a step, in one part of the network and by one bound.

    `seconds` that the step waits for it, in `runs` runs of its operations; FLOPs, bytes of main
    memory and bytes received in all of them; `operation` is the dearest one's name in the program.
    """

    line: str
    part: str
    bound: str
    seconds: float = 0.0
    runs: int = 0
    flops: float = 0.0
    moved_bytes: float = 0.0
    received_bytes: float = 0.0
    operation: str = ""


def find_dearest_lines(roofline: Roofline, count: int = DEAREST) -> list[LineCost]:
    """Return the source lines that take the longest, dearest first."""
    costs: dict[tuple[str, str, str], LineCost] = {}
    for one in sorted(roofline.operations, key=lambda one: -one.visible_seconds):
        key = (one.line, one.part, one.bound)
        cost = costs.setdefault(key, LineCost(*key, operation=one.name))
        cost.seconds += one.visible_seconds
        cost.runs += one.runs
        cost.flops += one.runs * sum(one.flops.values())
        cost.moved_bytes += one.runs * (one.read + one.written)
        cost.received_bytes += one.runs * one.received
    return sorted(costs.values(), key=lambda cost: -cost.seconds)[:count]


def summarize(roofline: Roofline, made: Plan) -> dict[str, Any]:
    """Return a roofline's figures for JSON.

    `seconds` of a step, `mfu_bound` (the closed form's model FLOPs over the devices' peak in that
    time), shares of moved bytes and of time 0..1, `parts` with seconds, FLOPs and bytes of each.
    """
    peak = made.topology.devices * made.topology.chip.bf16_flops
    seconds = roofline.seconds
    parts = {
        part: _sum_costs([one for one in roofline.operations if one.part == part]) for part in PARTS
    }
    wide = sum(one.visible_seconds for one in roofline.operations if one.flops.get("f32", 0) > 0)
    hidden = sum(one.runs * one.hidden for one in roofline.operations)
    return {
        "seconds": seconds,
        "mfu_bound": made.model_flops / (peak * seconds) if seconds else 0.0,
        "flops": roofline.flops,
        "moved_bytes": roofline.moved_bytes,
        "copies_share": parts["copies and transposes"]["moved_bytes"]
        / max(1.0, roofline.moved_bytes),
        "float32_products_share": wide / seconds if seconds else 0.0,
        "hidden_seconds": hidden,
        "parts": parts,
        "dearest": [vars(cost) for cost in find_dearest_lines(roofline)],
        "notes": roofline.notes,
    }


def _sum_costs(operations: Iterable[Operation]) -> dict[str, float]:
    found = {"seconds": 0.0, "flops": 0.0, "moved_bytes": 0.0, "received_bytes": 0.0}
    for one in operations:
        found["seconds"] += one.visible_seconds
        found["flops"] += one.runs * sum(one.flops.values())
        found["moved_bytes"] += one.runs * (one.read + one.written)
        found["received_bytes"] += one.runs * one.received
    return found


def format_roofline(found: dict[str, Any], made: Plan) -> str:
    """Return the figures of `summarize` as text."""
    chip, total = made.topology.chip, found["seconds"]
    lines = [
        "",
        "roofline of the compiled step, one device: each operation takes the longest of its"
        f" products ({chip.bf16_flops / 1e12:.0f} TFLOP/s in bfloat16), memory"
        f" ({chip.memory_bandwidth / 1e9:.0f} GB/s) and network",
        f"  {'step time, s':40}{total:10.3f}",
        f"  {'MFU bound':40}{found['mfu_bound']:10.1%}  (assumed above {made.mfu:.1%})",
        f"  {'collectives and copies hidden, s':40}{found['hidden_seconds']:10.3f}",
        f"  {'bytes moved, GB':40}{found['moved_bytes'] / 1e9:10.1f}, of which copies and"
        f" transposes {found['copies_share']:.1%}",
        f"  {'float32 products':40}{found['float32_products_share']:10.1%}  of the time",
        "",
        f"  {'part':24}{'ms':>9}{'share':>8}{'TFLOP':>9}{'GB':>9}",
    ]
    for name, part in found["parts"].items():
        lines.append(
            f"  {name:24}{part['seconds'] * 1e3:9.2f}{part['seconds'] / total if total else 0:8.1%}"
            f"{part['flops'] / 1e12:9.3f}{part['moved_bytes'] / 1e9:9.2f}"
        )
    lines += [
        "",
        f"  the {len(found['dearest'])} dearest source lines",
        f"  {'ms':>9}{'share':>7}{'runs':>6}{'TFLOP':>9}{'GB':>9}  bound by",
    ]
    for cost in found["dearest"]:
        moved = cost["received_bytes"] if cost["bound"] == "network" else cost["moved_bytes"]
        lines.append(
            f"  {cost['seconds'] * 1e3:9.2f}{cost['seconds'] / total if total else 0:7.1%}"
            f"{cost['runs']:6}{cost['flops'] / 1e12:9.3f}{moved / 1e9:9.2f}  {cost['bound']:8}"
            f"  {cost['part']}: {cost['line']}"
        )
    return "\n".join([*lines, *(f"  note: {note}" for note in found["notes"])])
