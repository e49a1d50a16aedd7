"""The printed table of a planned study: each run's cost, and the combinations left out."""

from omfa_jax.parallel.topology import Topology
from omfa_jax.studies.study_manifest import Study

# below this, overheads that the estimate does not have dominate a step
SHORT_SECONDS = 0.02


def format_plan(study: Study, topology: Topology | None) -> str:
    """Return the plan as text: each run's cost, the total, and the combinations left out."""
    head = f"{'run':28}{'params':>14}{'samples':>14}{'steps':>12}{'epochs':>9}{'FLOPs':>11}"
    lines = [head + f"{'hours':>10}{'cost':>11}"]
    for run in study.runs:
        lines.append(
            f"{run.name:28}{run.params:14,}{run.samples:14,}{run.steps:12,}{run.epochs:9.3g}"
            f"{run.flops:11.3e}{format_value(run.hours, 10)}{format_value(run.cost, 11)}"
        )
    hours = [run.hours for run in study.runs if run.hours is not None]
    costs = [run.cost for run in study.runs if run.cost is not None]
    total = sum(run.flops for run in study.runs)
    lines.append(
        f"{f'{len(study.runs)} runs':28}{'':49}{total:11.3e}"
        f"{format_value(sum(hours) if hours else None, 10)}"
        f"{format_value(sum(costs) if costs else None, 11)}"
    )
    if 0 < len(hours) < len(study.runs):
        lines.append(f"hours and cost are known for {len(hours)} of the {len(study.runs)} runs")
    if topology and hours:
        lines.append("step times assume that communication overlaps with computation")
        short = [r for r in study.runs if r.hours and 3600 * r.hours / r.steps < SHORT_SECONDS]
        if short:
            lines.append(
                f"{len(short)} runs have steps under {1000 * SHORT_SECONDS:.0f} ms: kernel"
                " launches and data loading, which are not counted, may take longer; time one step"
            )
    lines += [f"left out: {line}" for line in study.left_out]
    return "\n".join(lines)


def format_value(value: float | None, width: int) -> str:
    """Return a number with three digits, or a dash for None."""
    return f"{'-' if value is None else format(value, '.3g'):>{width}}"
