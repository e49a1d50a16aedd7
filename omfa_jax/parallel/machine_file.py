"""A machine of one's own, described by a JSON file, for plans on hardware without a row."""

import json
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.value_rules import Boolean, FloatRange, IntRange, Rule, Text, check_value
from omfa_jax.parallel.hardware import Chip

_RATE = FloatRange(0, 1e15, exclusive_minimum=True)
RULES: dict[str, Rule] = {
    "name": Text(),
    "devices": IntRange(1, 10**6),
    "devices_per_node": IntRange(1, 10**6),
    "bf16_tflops": FloatRange(0, 1e9, exclusive_minimum=True),
    "memory_gb": FloatRange(0, 1e9, exclusive_minimum=True),
    "memory_gb_per_s": _RATE,
    "node_gb_per_s": _RATE,
    "network_gb_per_s": _RATE,
    "amd": Boolean(),
}
# what a file may leave out, and its value then
OPTIONAL = {"network_gb_per_s": None, "node_gb_per_s": None, "amd": False}
EXAMPLE = {
    "name": "four RTX A6000",
    "devices": 4,
    "devices_per_node": 4,
    "bf16_tflops": 154.8,
    "memory_gb": 51.5,
    "memory_gb_per_s": 768,
    "node_gb_per_s": 32,
    "network_gb_per_s": 1.6,
}
GIGA = 1e9


def read_machine(path: Path) -> tuple[dict[str, Any], Chip]:
    """Return the fields of a machine's file and the chip that they describe.

    Units: `bf16_tflops` dense TFLOP/s of one device, `memory_gb` GB (1e9 bytes) of one, the rates
    GB/s as in `parallel.hardware`: of a device's memory, from its node, and from other nodes.
    OmfaError for a file that cannot be read, a missing or unknown field, and a wrong value.
    """
    try:
        found = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise OmfaError(f"--topology {path}: {reason}; {_example()}") from error
    if not isinstance(found, dict):
        raise OmfaError(f"--topology {path}: expected one JSON object; {_example()}")
    missing = [name for name in RULES if name not in found and name not in OPTIONAL]
    if found.get("devices", 1) != 1 and found.get("node_gb_per_s") is None:
        missing.append("node_gb_per_s")
    if found.get("devices", 1) != found.get("devices_per_node") and not missing:
        missing += ["network_gb_per_s"] if found.get("network_gb_per_s") is None else []
    wrong = [f"unknown field {name!r}" for name in found.keys() - RULES.keys()]
    wrong += [f"missing field {name!r}" for name in missing]
    for name in RULES.keys() & found.keys():
        error = check_value(name, RULES[name], found[name])
        wrong += [str(error)] if error else []
    # it is part of lines that are printed
    if isinstance(found.get("name"), str) and not found["name"].strip().isprintable():
        wrong.append(f"name: expected one printable line, got {found['name']!r}")
    elif found.get("name", "-") == "":
        wrong.append("name: expected what to call the machine, got ''")
    if wrong:
        raise OmfaError(f"--topology {path}: {'; '.join(sorted(wrong))}; {_example()}")
    if found["devices"] % found["devices_per_node"]:
        raise OmfaError(
            f"--topology {path}: {found['devices']} devices are not nodes of"
            f" {found['devices_per_node']}; give the machines that are alike"
        )
    near = found.get("node_gb_per_s") or found["memory_gb_per_s"]
    return found, Chip(
        ("AMD " if found.get("amd") else "") + found["name"],
        found["bf16_tflops"] * 1e12,
        found["memory_gb"] * GIGA,
        found["memory_gb_per_s"] * GIGA,
        near * GIGA,
        (found.get("network_gb_per_s") or near) * GIGA,
        gpus_per_host=found["devices_per_node"],
        gpus_per_domain=found["devices_per_node"],
    )


def _example() -> str:
    return f"expected such as {json.dumps(EXAMPLE)}"
