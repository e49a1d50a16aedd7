"""The plots of a fit in four panels: frontier, IsoFLOP curves, residuals and optimal size."""

import io
from typing import Any

import numpy as np

from omfa_jax.studies.cost_rule import CostRule
from omfa_jax.studies.loss_law import compute_loss, compute_optimum

BLUE, ORANGE, GREY = "#1f5fa8", "#d8690f", "#808080"


def draw_study(data: dict[str, Any], form: str) -> bytes:
    """Return the figure of a record (see `fit_record.make_record`), encoded as "png" or "svg"."""
    buffer = io.BytesIO()
    # without the date, the same record gives the same bytes
    metadata = {"Date": None} if form == "svg" else {}
    make_figure(data).savefig(buffer, format=form, dpi=130, metadata=metadata)
    return buffer.getvalue()


def make_figure(data: dict[str, Any]) -> Any:
    """Return the matplotlib figure of a record."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot, which looks for a display and keeps global state
    figure = Figure(figsize=(13, 10), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    draw_frontier(axes[0, 0], data)
    draw_isoflops(figure, axes[0, 1], data)
    draw_residuals(figure, axes[1, 0], data)
    draw_sizes(axes[1, 1], data)
    for axis in axes.flat:
        axis.grid(alpha=0.25, which="both", linewidth=0.5)
        for side in (axis.xaxis, axis.yaxis):
            if side.get_scale() == "log":
                set_log_ticks(side)
    return figure


def set_log_ticks(side: Any) -> None:
    """Label a logarithmic axis at so few ticks that the labels do not overlap, and not at others.

    matplotlib labels 2, 3, 4 and 6 times each power of ten if there are few, side by side.
    """
    from matplotlib.ticker import (
        FixedLocator,
        LogFormatterSciNotation,
        MaxNLocator,
        NullFormatter,
    )

    # losses have short labels, above each other
    is_loss = side.get_label_text() == "loss"
    ticks = choose_log_ticks(*side.get_view_interval(), max_count=10 if is_loss else 5)
    # a narrow range may have none of them
    side.set_major_locator(FixedLocator(ticks) if len(ticks) > 1 else MaxNLocator(3))
    if is_loss:
        side.set_major_formatter("{x:.4g}")
    else:
        side.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    side.set_minor_formatter(NullFormatter())


def choose_log_ticks(low: float, high: float, max_count: int) -> list[float]:
    """Return as many round numbers as fit, multiples of the powers of ten between low and high."""
    every = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    tries = [
        [m * 10.0**power for power in every for m in multiples]
        for multiples in ((1, 1.5, 2, 2.5, 3, 4, 5, 7), (1, 2, 5), (1, 3))
    ]
    tries += [[10.0**power for power in every if power % step == 0] for step in range(1, 40)]
    inside = ([tick for tick in ticks if low <= tick <= high] for ticks in tries)
    return next((ticks for ticks in inside if len(ticks) <= max_count), [])


def get_law(data: dict[str, Any]) -> np.ndarray | None:
    """Return the law of a record in natural units, or None if none was fitted."""
    if data["law"]["refused"] is not None:
        return None
    values = {name: one["estimate"] for name, one in data["law"]["coefficients"].items()}
    # E may be fitted as 0, which has no logarithm
    floor = max(values["E"], 1e-300)
    logs = np.log([values["A"], values["B"], floor])
    return np.array([*logs, values["alpha"], values["beta"]])


def get_column(data: dict[str, Any], name: str) -> np.ndarray:
    """Return one value for each run; nan for null."""
    return np.array([np.nan if run[name] is None else run[name] for run in data["runs"]])


def write_reason(axis: Any, text: str) -> None:
    """Write the reason into an empty panel."""
    import textwrap

    axis.text(0.5, 0.5, textwrap.fill(text, 50), transform=axis.transAxes, ha="center", va="center")


def make_budgets(data: dict[str, Any]) -> np.ndarray:
    """Return a grid of compute from the smallest run to the largest run or predicted budget."""
    to_come = (one["flops"] for name in ("optima", "predictions") for one in data[name])
    flops = [*get_column(data, "flops"), *to_come]
    return np.geomspace(min(flops) * 0.8, max(flops) * 1.5, 200)


def draw_error_bar(
    axis: Any, at: float, one: dict[str, Any], label: str | None, color: str = ORANGE
) -> None:
    """Draw an estimate with its interval, if there is one."""
    if one["estimate"] is None:
        return
    reach = None
    if one["low"] is not None:
        # percentiles may lie on one side of the estimate; matplotlib refuses negative lengths
        reach = [[max(one["estimate"] - one["low"], 0)], [max(one["high"] - one["estimate"], 0)]]
    axis.errorbar(
        [at], [one["estimate"]], yerr=reach, fmt="D", color=color, capsize=4, label=label, zorder=5
    )


def draw_frontier(axis: Any, data: dict[str, Any]) -> None:
    """Draw loss against compute: runs, their envelope, the law's lowest loss and predictions."""
    flops, loss = get_column(data, "flops"), get_column(data, "loss")
    axis.scatter(flops, loss, s=18, color=GREY, alpha=0.6, label="runs", linewidths=0)
    on = set(data["envelope"]["lines_of_file"])
    # the record has lines of the file, not indices
    chosen = np.array([run["line"] in on for run in data["runs"]])
    order = np.argsort(flops[chosen])
    axis.plot(flops[chosen][order], loss[chosen][order], ".-", color=BLUE, lw=1, label="envelope")
    law = get_law(data)
    if law is not None:
        c = make_budgets(data)
        log_n, log_d = compute_optimum(law, CostRule(**data["cost"]), c)
        best = compute_loss(law, np.exp(log_n), np.exp(log_d))
        axis.plot(c, best, color=ORANGE, lw=2, label="frontier of the law")
    for at, one in enumerate(data["optima"]):
        draw_error_bar(
            axis, one["flops"], one["loss"], "best for a budget, 95%" if at == 0 else None
        )
    for at, one in enumerate(data["predictions"]):
        label = "predicted run, 95%" if at == 0 else None
        # shifted, so that runs of one budget do not overlap
        draw_error_bar(axis, one["flops"] * 1.04**at, one["run"], label, "crimson")
    axis.set(
        xscale="log", yscale="log", xlabel="FLOPs", ylabel="loss", title="Loss against compute"
    )
    axis.legend(frameon=False)


def draw_isoflops(figure: Any, axis: Any, data: dict[str, Any]) -> None:
    """Draw each budget's runs, its parabola and the minimum."""
    from matplotlib import colormaps

    found = [one for one in data["isoflop"]["parabolas"] if one["coefficients"][0] is not None]
    by_line = {run["line"]: run for run in data["runs"]}
    axis.set(xscale="log", xlabel="parameters", ylabel="loss", title="IsoFLOP curves")
    if not found:
        write_reason(axis, data["isoflop"]["refused"] or "no budget has enough runs")
        return
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(found)))
    for color, one in zip(colors, found, strict=True):
        runs = [by_line[line] for line in one["lines_of_file"]]
        n, loss = (np.array([run[name] for run in runs]) for name in ("params", "loss"))
        left_out = one["refused"] is not None
        # a long legend would cover the curves
        label = None if len(found) > 12 else f"{one['flops']:.2g}{' (not used)' * left_out}"
        axis.scatter(n, loss, s=14, color=color, label=label)
        x = np.linspace(np.log(n.min()), np.log(n.max()), 100)
        curve = np.polynomial.polynomial.polyval(x - one["center"], one["coefficients"])
        axis.plot(np.exp(x), curve, color=color, lw=1.2, ls=":" if left_out else "-")
        if not left_out:
            axis.plot(np.exp(one["log_params"]), one["loss"], "*", ms=11, color="crimson")
    if len(found) > 12:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm

        scale = LogNorm(found[0]["flops"], found[-1]["flops"])
        figure.colorbar(ScalarMappable(scale, "viridis"), ax=axis, label="FLOPs")
    else:
        axis.legend(frameon=False, fontsize=8, title="FLOPs")


def draw_residuals(figure: Any, axis: Any, data: dict[str, Any]) -> None:
    """Draw the residual of each run by compute and size."""
    from matplotlib.colors import LogNorm

    axis.set(
        xscale="log", xlabel="FLOPs", ylabel="measured / predicted loss - 1, %", title="Residuals"
    )
    residual = get_column(data, "log_residual")
    shown = np.isfinite(residual)
    if not shown.any():
        write_reason(axis, f"no law: {data['law']['refused']}")
        return
    points = axis.scatter(
        get_column(data, "flops")[shown],
        # residuals are of log loss
        100 * np.expm1(residual[shown]),
        c=get_column(data, "params")[shown],
        norm=LogNorm(),
        s=18,
    )
    figure.colorbar(points, ax=axis, label="parameters")
    axis.axhline(0, color="black", lw=0.8)
    noise = 100 * data["law"]["noise_of_log_loss"]
    # about 95% of the runs belong in this band
    axis.axhspan(-2 * noise, 2 * noise, color=GREY, alpha=0.12, lw=0)


def draw_sizes(axis: Any, data: dict[str, Any]) -> None:
    """Draw the optimal size against compute by every approach, and the predictions."""
    c = make_budgets(data)
    law = get_law(data)
    axis.scatter(
        get_column(data, "flops"),
        get_column(data, "params"),
        s=8,
        color=GREY,
        alpha=0.4,
        label="runs",
    )
    if law is not None:
        log_n, _ = compute_optimum(law, CostRule(**data["cost"]), c)
        axis.plot(c, np.exp(log_n), color=ORANGE, lw=2, label="law")
    iso = data["isoflop"]
    used = [one for one in iso["parabolas"] if one["refused"] is None]
    if used:
        axis.plot(
            [one["flops"] for one in used],
            [np.exp(one["log_params"]) for one in used],
            "*",
            ms=10,
            color="crimson",
            label="minima of the parabolas",
        )
    for name, one, color in (("IsoFLOP", iso, "crimson"), ("envelope", data["envelope"], BLUE)):
        if one["lines"] is not None:
            intercept, slope = one["lines"][0]
            style = {"color": color, "lw": 1.2, "ls": "--"}
            axis.plot(
                c, np.exp(intercept + slope * np.log(c)), label=f"{name}, C^{slope:.2f}", **style
            )
    for at, one in enumerate(data["optima"]):
        draw_error_bar(axis, one["flops"], one["params"], "predicted, 95%" if at == 0 else None)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs",
        ylabel="parameters",
        title="Optimal size for a budget",
    )
    axis.legend(frameon=False, fontsize=8)
