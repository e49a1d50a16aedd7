"""The HTML page of a scaling fit: the plots as inline SVG, and the tables."""

from typing import Any

from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.studies.study_plot import draw_study

APPROACHES = (("IsoFLOP", "isoflop"), ("envelope", "envelope"))


def build_study_page(data: dict[str, Any]) -> HtmlPage:
    """Return the page of a record (`fit_record.make_record`); 95% intervals are in brackets."""
    law = data["law"]
    page = HtmlPage(
        "Scaling law fit",
        f"{len(data['runs'])} runs used, {len(data['excluded'])} excluded;"
        f" {data['flops_rule']}. Intervals in brackets are 95%.",
    )
    if law["refused"] is not None:
        page.add_warnings("No law was fitted", [law["refused"]])
    # matplotlib puts an XML declaration in front, which HTML does not allow
    plots = draw_study(data, "svg").decode()
    page.add_svg(plots[plots.index("<svg") :])
    # the other approaches may work where the parametric law does not
    if law["refused"] is None:
        add_law(page, data)
    add_exponents(page, data)
    if data["repeats"]:
        add_repeats(page, data["repeats"])
    add_optima(page, data["optima"])
    add_predictions(page, data["predictions"])
    if data["warnings"]:
        page.add_heading("Notes")
        page.add_list(data["warnings"])
    if data["excluded"]:
        page.add_heading("Excluded runs")
        page.add_table(
            ("line", "reason"), [(one["line"], one["reason"]) for one in data["excluded"]]
        )
    return page


def add_law(page: HtmlPage, data: dict[str, Any]) -> None:
    """Add the coefficients of the law, its noise and its error on the held-out runs."""
    law, held = data["law"], data["held_out"]
    rows = [(name, format_bracket(one)) for name, one in law["coefficients"].items()]
    rows.append(("noise of one run's loss", f"{law['noise_of_log_loss']:.2%}"))
    if held and held["refused"] is None:
        label = f"RMS error on the {len(held['lines'])} largest runs, held out"
        rows.append((label, f"{held['rms']:.2%}"))
    page.add_heading("L = E + A / N^alpha + B / D^beta")
    page.add_table(("coefficient", "estimate"), rows)


def add_exponents(page: HtmlPage, data: dict[str, Any]) -> None:
    """Add the exponents of N_opt and D_opt by the other approaches, and what they left out."""
    iso = data["isoflop"]
    rows = []
    for name, key in APPROACHES:
        one = data[key]
        if one["refused"] is None:
            rows.append((name, format_bracket(one["a"]), format_bracket(one["b"]), ""))
        else:
            rows.append((name, "-", "-", one["refused"]))
    if iso["refused"] is None:
        # 1 follows from FLOPs = k N^(1 + kappa) D: anything else shows a bad parabola or cost rule
        label = f"IsoFLOP, {1 + data['cost']['kappa']:.3g} a + b"
        rows.append((label, format_bracket(iso["sum"]), "", "expected: 1"))
    page.add_heading("Exponents by the other approaches")
    page.add_table(("approach", "a", "b", "note"), rows)
    unused = [one for one in iso["parabolas"] if one["refused"] is not None]
    if unused:
        page.add_heading("Budgets without a usable parabola")
        rows = [(f"{one['flops']:.3g}", one["refused"]) for one in unused]
        page.add_table(("FLOPs", "reason"), rows)


def add_repeats(page: HtmlPage, repeats: dict[str, Any]) -> None:
    """Add the decay constants of repeated samples and excess parameters."""
    page.add_heading("Repeated samples")
    if repeats["refused"] is not None:
        page.add_text(f"Not fitted: {repeats['refused']}")
    names = {"R*_D": repeats["r_samples"], "R*_N": repeats["r_params"]}
    rows = [(name, format_bracket(one)) for name, one in names.items() if one is not None]
    if rows:
        page.add_table(("constant", "estimate"), rows)
    if repeats["notes"]:
        page.add_list(repeats["notes"])


def add_optima(page: HtmlPage, optima: list[dict[str, Any]]) -> None:
    """Add the best size and number of samples for each budget."""
    if not optima:
        return
    rows = [
        (
            f"{one['flops']:.3g}",
            *(format_bracket(one[name], ".3g") for name in ("params", "samples")),
            format_bracket(one["loss"]),
            "; ".join(one["notes"]),
        )
        for one in optima
    ]
    page.add_heading("Compute-optimal size")
    page.add_table(("FLOPs", "parameters", "samples", "loss", "note"), rows)


def add_predictions(page: HtmlPage, predictions: list[dict[str, Any]]) -> None:
    """Add the predicted losses of runs that are not in the table."""
    if not predictions:
        return
    rows = [
        (
            f"{one['params']:.4g}",
            f"{one['samples']:.4g}",
            f"{one['beyond']:.3g}",
            format_bracket(one["loss"]),
            format_bracket(one["run"]),
            "; ".join(one["notes"]),
        )
        for one in predictions
    ]
    page.add_heading("Predicted runs (without repeated samples)")
    header = ("parameters", "samples", "compute / largest run", "loss by the law")
    page.add_table((*header, "loss of one run", "note"), rows)


def format_bracket(one: dict[str, Any], form: str = ".4g") -> str:
    """Return an estimate and its interval; a dash where there is none."""
    if one["estimate"] is None:
        return "-"
    if one["low"] is None or one["high"] is None:
        return f"{one['estimate']:{form}}"
    return f"{one['estimate']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"
