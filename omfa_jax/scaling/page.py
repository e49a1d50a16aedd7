"""A study's record as one HTML file that needs no other: the picture as SVG, and the tables."""

from collections.abc import Sequence
from html import escape
from typing import Any

from omfa_jax.scaling.plot import draw

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{border-bottom:1px solid #ddd;padding:.25rem .9rem .25rem 0;text-align:left}
svg{width:100%;height:auto}.refused{background:#fde8e4;padding:.6rem 1rem}
"""


def page(data: dict[str, Any]) -> str:
    """Return the page; every number is of the record, 95% intervals in brackets."""
    picture = draw(data, "svg").decode()
    picture = picture[picture.index("<svg") :]
    law, iso, envelope = data["law"], data["isoflop"], data["envelope"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Scaling of the loss</title>",
        f"<style>{STYLE}</style><h1>Scaling of the loss</h1>",
        f"<p>{len(data['runs'])} runs used, {len(data['excluded'])} left out;"
        f" {escape(data['flops_rule'])}.</p>",
    ]
    if law["refused"] is not None:
        parts.append(f"<p class='refused'>No law was fitted: {escape(law['refused'])}</p>")
    parts.append(picture)
    if law["refused"] is None:
        parts.append("<h2>L = E + A / N<sup>alpha</sup> + B / D<sup>beta</sup></h2>")
        rows = [(name, bracket(one)) for name, one in law["coefficients"].items()]
        rows.append(("noise of a loss", f"{law['noise_of_log_loss']:.2%}"))
        held = data["held_out"]
        if held and held["refused"] is None:
            rows.append(
                (f"error on the {len(held['lines'])} largest runs", f"{held['rms']:.2%} rms")
            )
        parts.append(table(("coefficient", "estimate [95%]"), rows))
    rows = []
    for name, one in (("IsoFLOP", iso), ("envelope", envelope)):
        if one["refused"] is None:
            rows.append((name, bracket(one["a"]), bracket(one["b"])))
        else:
            rows.append((name, one["refused"], ""))
    if iso["refused"] is None:
        rows.append((f"IsoFLOP, {1 + data['cost']['kappa']:.3g} a + b", bracket(iso["sum"]), ""))
    parts += ["<h2>Exponents by the other approaches</h2>", table(("approach", "a", "b"), rows)]
    left_out = [
        (f"{one['flops']:.3g} FLOPs", one["refused"])
        for one in iso["parabolas"]
        if one["refused"] is not None
    ]
    if left_out:
        parts += ["<h2>Budgets left out</h2>", table(("budget", "reason"), left_out)]
    repeats = data["repeats"]
    if repeats:
        names = {"R*_D": repeats["r_samples"], "R*_N": repeats["r_params"]}
        rows = [(name, bracket(one)) for name, one in names.items() if one is not None]
        rows += [("note", note) for note in repeats["notes"]]
        if repeats["refused"] is not None:
            rows.append(("refused", repeats["refused"]))
        parts += ["<h2>Repeated samples</h2>", table(("", "estimate [95%]"), rows)]
    if data["optima"]:
        rows = [
            (
                f"{one['flops']:.3g}",
                *(bracket(one[name], ".3g") for name in ("params", "samples")),
                bracket(one["loss"]),
                "; ".join(one["notes"]),
            )
            for one in data["optima"]
        ]
        header = ("FLOPs", "parameters", "samples", "loss", "note")
        parts += ["<h2>Optimum for a budget</h2>", table(header, rows)]
    if data["predictions"]:
        rows = [
            (
                f"{one['params']:.4g}",
                f"{one['samples']:.4g}",
                f"{one['beyond']:.3g}",
                bracket(one["loss"]),
                bracket(one["run"]),
                "; ".join(one["notes"]),
            )
            for one in data["predictions"]
        ]
        header = (
            *("parameters", "samples", "times the largest compute"),
            *("loss by the law", "of one run, noise and all", "note"),
        )
        parts += ["<h2>Runs to come, every sample new</h2>", table(header, rows)]
    if data["warnings"]:
        parts += ["<h2>Notes</h2>", table(("",), [(text,) for text in data["warnings"]])]
    if data["excluded"]:
        rows = [(str(one["line"]), one["reason"]) for one in data["excluded"]]
        parts += ["<h2>Runs left out</h2>", table(("line", "reason"), rows)]
    return "\n".join([*parts, "</html>\n"])


def bracket(one: dict[str, Any], form: str = ".4g") -> str:
    """Return an estimate and its interval; a dash where there is none."""
    if one["estimate"] is None:
        return "-"
    if one["low"] is None or one["high"] is None:
        return f"{one['estimate']:{form}}"
    return f"{one['estimate']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
