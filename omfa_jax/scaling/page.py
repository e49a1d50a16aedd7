"""The HTML page of a scaling fit: the plots as inline SVG, and the tables."""

from typing import Any

from omfa_jax.evals.page import Page
from omfa_jax.scaling.plot import draw

APPROACHES = (("IsoFLOP", "isoflop"), ("envelope", "envelope"))


def page(data: dict[str, Any]) -> Page:
    """Return the page of a record (`record.record`); 95% intervals are in brackets."""
    law = data["law"]
    made = Page(
        "Scaling law fit",
        f"{len(data['runs'])} runs used, {len(data['excluded'])} excluded;"
        f" {data['flops_rule']}. Intervals in brackets are 95%.",
    )
    if law["refused"] is not None:
        made.warnings("No law was fitted", [law["refused"]])
    # matplotlib puts an XML declaration in front, which HTML does not allow
    plots = draw(data, "svg").decode()
    made.svg(plots[plots.index("<svg") :])
    if law["refused"] is None:
        add_law(made, data)
    add_exponents(made, data)
    if data["repeats"]:
        add_repeats(made, data["repeats"])
    add_optima(made, data["optima"])
    add_predictions(made, data["predictions"])
    if data["warnings"]:
        made.heading("Notes")
        made.bullets(data["warnings"])
    if data["excluded"]:
        made.heading("Excluded runs")
        made.table(("line", "reason"), [(one["line"], one["reason"]) for one in data["excluded"]])
    return made


def add_law(made: Page, data: dict[str, Any]) -> None:
    """Add the coefficients of the law, its noise and its error on the held-out runs."""
    law, held = data["law"], data["held_out"]
    rows = [(name, bracket(one)) for name, one in law["coefficients"].items()]
    rows.append(("noise of one run's loss", f"{law['noise_of_log_loss']:.2%}"))
    if held and held["refused"] is None:
        label = f"RMS error on the {len(held['lines'])} largest runs, held out"
        rows.append((label, f"{held['rms']:.2%}"))
    made.heading("L = E + A / N^alpha + B / D^beta")
    made.table(("coefficient", "estimate"), rows)


def add_exponents(made: Page, data: dict[str, Any]) -> None:
    """Add the exponents of N_opt and D_opt by the other approaches, and what they left out."""
    iso = data["isoflop"]
    rows = []
    for name, key in APPROACHES:
        one = data[key]
        if one["refused"] is None:
            rows.append((name, bracket(one["a"]), bracket(one["b"]), ""))
        else:
            rows.append((name, "-", "-", one["refused"]))
    if iso["refused"] is None:
        label = f"IsoFLOP, {1 + data['cost']['kappa']:.3g} a + b"
        rows.append((label, bracket(iso["sum"]), "", "expected: 1"))
    made.heading("Exponents by the other approaches")
    made.table(("approach", "a", "b", "note"), rows)
    unused = [one for one in iso["parabolas"] if one["refused"] is not None]
    if unused:
        made.heading("Budgets without a usable parabola")
        rows = [(f"{one['flops']:.3g}", one["refused"]) for one in unused]
        made.table(("FLOPs", "reason"), rows)


def add_repeats(made: Page, repeats: dict[str, Any]) -> None:
    """Add the decay constants of repeated samples and excess parameters."""
    made.heading("Repeated samples")
    if repeats["refused"] is not None:
        made.text(f"Not fitted: {repeats['refused']}")
    names = {"R*_D": repeats["r_samples"], "R*_N": repeats["r_params"]}
    rows = [(name, bracket(one)) for name, one in names.items() if one is not None]
    if rows:
        made.table(("constant", "estimate"), rows)
    if repeats["notes"]:
        made.bullets(repeats["notes"])


def add_optima(made: Page, optima: list[dict[str, Any]]) -> None:
    """Add the best size and number of samples for each budget."""
    if not optima:
        return
    rows = [
        (
            f"{one['flops']:.3g}",
            *(bracket(one[name], ".3g") for name in ("params", "samples")),
            bracket(one["loss"]),
            "; ".join(one["notes"]),
        )
        for one in optima
    ]
    made.heading("Compute-optimal size")
    made.table(("FLOPs", "parameters", "samples", "loss", "note"), rows)


def add_predictions(made: Page, predictions: list[dict[str, Any]]) -> None:
    """Add the predicted losses of runs that are not in the table."""
    if not predictions:
        return
    rows = [
        (
            f"{one['params']:.4g}",
            f"{one['samples']:.4g}",
            f"{one['beyond']:.3g}",
            bracket(one["loss"]),
            bracket(one["run"]),
            "; ".join(one["notes"]),
        )
        for one in predictions
    ]
    made.heading("Predicted runs, no sample repeated")
    header = ("parameters", "samples", "compute / largest run", "loss by the law")
    made.table((*header, "loss of one run", "note"), rows)


def bracket(one: dict[str, Any], form: str = ".4g") -> str:
    """Return an estimate and its interval; a dash where there is none."""
    if one["estimate"] is None:
        return "-"
    if one["low"] is None or one["high"] is None:
        return f"{one['estimate']:{form}}"
    return f"{one['estimate']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"
