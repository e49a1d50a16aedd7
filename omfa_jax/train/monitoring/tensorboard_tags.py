"""Tags of TensorBoard, which groups curves by what stands before the first slash."""

from collections.abc import Mapping
from typing import Any

# groups as in MaxText and big_vision; keys of metrics.jsonl that already have a group keep it
GROUPS = {
    "loss": ("l1", "kl"),
    "learning": ("learning_rate", "grad_norm", "skipped_steps", "latent_std"),
    "time": ("step_seconds", "seconds", "data_wait", "data_seconds", "host_seconds", "goodput"),
    "perf": ("examples_per_second", "tflops_per_second_per_device", "mfu", "hbm_peak_gb"),
    "progress": ("samples", "flops", "frozen_flops", "params"),
}
GROUP_OF_KEY = {key: group for group, keys in GROUPS.items() for key in keys}


def get_scalar_tag(key: str) -> str:
    """Return the tag of a key of metrics.jsonl: "time/step_seconds/p50" for "step_seconds/p50"."""
    # "loss" and "loss/try_on" are in one group as they are
    group = GROUP_OF_KEY.get(key.partition("/")[0])
    return key if group is None else f"{group}/{key}"


def format_config(config: Mapping[str, Any]) -> str:
    """Return the config as a Markdown table, which TensorBoard's text tab renders."""
    rows = [f"| `{key}` | `{_escape(value)}` |" for key, value in _flatten("config", config)]
    return "\n".join(["| key | value |", "| --- | --- |", *rows])


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [row for key, one in value.items() for row in _flatten(f"{prefix}.{key}", one)]


def _escape(value: Any) -> str:
    # a bar ends a cell even in code, and an empty string would show as two backticks
    return str(value).replace("|", "\\|").replace("\n", " ") if str(value) else '""'
