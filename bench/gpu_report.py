"""The report of `bench/gpu.py`: one JSON file, and one table made of it."""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_sections import KERNELS, SAMPLING, VERSUS
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError

TOP = 10
# (source line, seconds of a step)
Roofline = Sequence[tuple[str, float]]


def load_report(out: Path, *, tiny: bool) -> dict[str, Any]:
    """Return the report of an earlier call in `out`, or a new one."""
    path = out / "gpu.json"
    if not path.exists():
        return {"tiny": tiny, "sections": {}}
    try:
        report = json.loads(path.read_text())
        kept = report["tiny"]
        report["sections"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OmfaError(f"{path} is not a report of bench/gpu.py ({error}); change --out") from None
    if kept != tiny:
        raise OmfaError(f"{path} was measured {'with' if kept else 'without'} --tiny; change --out")
    return report


def save_report(out: Path, report: dict[str, Any], roofline: Roofline = ()) -> None:
    """Write gpu.json and gpu.md, each atomically."""
    with atomic_write(out / "gpu.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    with atomic_write(out / "gpu.md") as temporary:
        temporary.write_text(format_report(report, roofline) + "\n")


def read_roofline(path: Path, key: str = "dearest") -> list[tuple[str, float]]:
    """Return (source line, seconds) of the compiler's dearest operations, the dearest first.

    `path` is JSON of `omfa plan --compile`: under `key` a list of objects with `source`
    ("file:line") and `seconds` of a step.
    """
    try:
        rows = [(str(r["source"]), float(r["seconds"])) for r in json.loads(path.read_text())[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OmfaError(
            f"--roofline {path}: expected JSON of `omfa plan --compile` with a list {key!r} of"
            f" objects with 'source' and 'seconds' ({type(error).__name__}: {error})"
        ) from None
    return sorted(rows, key=lambda row: -row[1])


def format_report(report: dict[str, Any], roofline: Roofline = ()) -> str:
    """Return the table in Markdown, and the dearest kernels."""
    rows = report["sections"]
    device = rows.get("device", {})
    lines = [*_format_device(device), "", "| what | figure |", "| --- | --- |"]
    for name, row in rows.items():
        if name not in ("device", KERNELS):
            lines.append(f"| {name} | {_format_row(name, row, device)} |")
    return "\n".join([*lines, *_format_kernels(rows.get(KERNELS, {}), dict(roofline))])


def _format_device(row: dict[str, Any]) -> Iterator[str]:
    if row.get("status") != "done":
        yield f"Device: {row.get('note', 'not measured yet')}"
        return
    peak, width = row["bf16_flops"], row["memory_bandwidth"]
    sheet = f" (data sheet {peak / 1e12:.0f})" if peak else ""
    memory = f" (data sheet {width / 1e9:.0f})" if width else ""
    yield (
        f"{row['device']}, jax {row['jax']}: bfloat16 products"
        f" {row['measured_bf16_flops'] / 1e12:.3g} TFLOP/s{sheet}, memory"
        f" {row['measured_bandwidth'] / 1e9:.0f} GB/s{memory}."
        f" {'MFU is of the data sheet.' if peak else 'Not in the hardware table: no MFU.'}"
        + (f" {row['note']}" if row.get("note") else "")
    )


def _format_row(name: str, row: dict[str, Any], device: dict[str, Any]) -> str:
    if row["status"] != "done":
        return f"{row['status']}: {row.get('note', '')}".replace("|", "/")
    if "figure" in row:
        return f"{'passed' if row['passed'] else 'FAILED'}: {row['figure']}"
    if name in (VERSUS, SAMPLING):
        return _format_comparison(row)
    if name == "sampling":
        first = f"first {row['first_picture_s']:.0f} s"
        return f"{_median(row['turns']):.3g} s a picture, {row['steps']} steps, {first}" + _peak(
            row
        )
    return _format_step(row, device)


def _format_step(row: dict[str, Any], device: dict[str, Any]) -> str:
    seconds, flops = _median(row["turns"]), row["model_flops"]
    rate = flops / seconds
    peak = device.get("bf16_flops")
    share = f", MFU {rate / peak:.1%}" if peak else ""
    measured = device.get("measured_bf16_flops")
    share += f" ({rate / measured:.1%} of measured products)" if measured else ""
    compiled = f"; traced {row['trace_s']:.0f} s, compiled {row['compile_s']:.0f} s"
    cudnn = "" if row["cudnn_attention"] else ", attention without cuDNN"
    cudnn += f", {row['note']}" if row.get("note") else ""
    return (
        f"{1e3 * seconds:.4g} ms a step, {row['batch'] / seconds:.3g} examples/s{share}"
        f"{_peak(row)}{cudnn}{compiled}"
    )


def _format_comparison(row: dict[str, Any]) -> str:
    ours, theirs = (_median(row["turns"][side]) for side in ("ours", "diffusers"))
    pairs = [b / a for a, b in zip(*row["turns"].values(), strict=True)]
    other = row["diffusers"]
    kind = "torch.compile" if other["compiled"] else "eager"
    return (
        f"{1e3 * theirs:.4g} ms ({kind}, torch {other['torch']}, diffusers"
        f" {other['diffusers']}{_peak(other)}), ours {1e3 * ours:.4g}: diffusers / ours"
        f" **{theirs / ours:.2f}** ({min(pairs):.2f} to {max(pairs):.2f} by turn)"
    )


def _format_kernels(row: dict[str, Any], roofline: dict[str, float]) -> Iterator[str]:
    if row.get("status") != "done":
        if row:
            yield from ("", f"Kernels: {row['status']}: {row.get('note', '')}")
        return
    busy = row["busy_s"]
    yield from ("", f"The {TOP} dearest kernels of a step ({1e3 * busy:.4g} ms of kernels):", "")
    yield from ("| kernel | runs | ms | share | line |", "| --- | --- | --- | --- | --- |")
    for kernel in row["kernels"][:TOP]:
        name = kernel["kernel"].replace("|", "/")[:60]
        yield (
            f"| `{name}` | {kernel['count']} | {1e3 * kernel['seconds']:.3g} |"
            f" {kernel['seconds'] / busy:.1%} | {kernel['source'] or kernel['op_name'][:60]} |"
        )
    yield from ("", f"The {TOP} dearest lines, and the compiler's roofline of each:", "")
    yield from ("| line | ms | share | roofline, ms |", "| --- | --- | --- | --- |")
    for line in row["sources"][:TOP]:
        bound = roofline.get(line["source"])
        yield (
            f"| {line['source'] or '(no metadata)'} | {1e3 * line['seconds']:.3g} |"
            f" {line['seconds'] / busy:.1%} | {'' if bound is None else f'{1e3 * bound:.3g}'} |"
        )
    unseen = [s for s in list(roofline)[:TOP] if s not in {r["source"] for r in row["sources"]}]
    if unseen:
        yield from (
            "",
            f"In the roofline's list of {TOP} and not in the profile: {', '.join(unseen)}",
        )


def _peak(row: dict[str, Any]) -> str:
    return f", peak {row['peak_bytes'] / 2**30:.1f} GiB" if row.get("peak_bytes") else ""


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)
