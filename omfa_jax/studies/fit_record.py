"""A fit as JSON: what `omfa scaling fit --out` writes and `omfa scaling plot` reads."""

import dataclasses
from typing import Any

import numpy as np

from omfa_jax.studies.fit_scaling import ScalingFit

FORMAT = "omfa scaling fit 1"


def make_record(found: ScalingFit) -> dict[str, Any]:
    """Return a fit as JSON values; values that could not be computed are null, never nan."""
    fit, settings = found.fit, found.settings
    law: dict[str, Any] = {"refused": found.refused}
    if fit is not None:
        law |= {
            "coefficients": found.coefficients,
            "runs": len(fit.log_loss),
            "irreducible": fit.irreducible,
            "huber_sum": fit.objective,
            "noise_of_log_loss": fit.noise,
            "r_squared_of_log_loss": 1 - float(np.var(fit.residual) / np.var(fit.log_loss)),
            "largest_residual_of_log_loss": float(np.abs(fit.residual).max()),
            "resamples": settings.resamples,
            "interval": "95%, studentised parametric bootstrap (docs/scaling.md)",
        }
    # residuals exist for the runs of the law only
    lines = {int(line): at for at, line in enumerate(found.fresh.line)}
    rows = [
        {
            "line": int(one.line[0]),
            "params": float(one.params[0]),
            "samples": float(one.samples[0]),
            "loss": float(one.loss[0]),
            "flops": float(one.flops[0]),
            "epochs": float(one.epochs[0]),
            "log_residual": (
                float(fit.residual[lines[int(one.line[0])]])
                if fit is not None and int(one.line[0]) in lines
                else None
            ),
        }
        for one in (found.runs.take(np.array([at])) for at in range(len(found.runs)))
    ]
    held, repeats = found.held_out, found.repeats
    # the row indices of parabolas and envelope refer to these runs
    source = found.fresh if len(found.fresh) else found.runs
    data = {
        "format": FORMAT,
        "columns": found.table.columns,
        "flops_rule": found.table.flops_rule,
        "settings": settings,
        "cost": found.cost,
        "law": law,
        "isoflop": found.isoflop,
        "envelope": found.envelope,
        "held_out": held
        and dataclasses.asdict(held) | ({"rms": held.rms} if held.refused is None else {}),
        "repeats": repeats
        and {
            name: getattr(repeats, name)
            for name in ("r_samples", "r_params", "residual", "notes", "refused")
        },
        "optima": found.optima,
        "predictions": found.predictions,
        "warnings": found.warnings,
        "excluded": found.excluded,
        "runs": rows,
    }
    found_plain = to_plain(data)
    # a reader of the file knows its lines, not the array indices
    for one in (*found_plain["isoflop"]["parabolas"], found_plain["envelope"]):
        one["lines_of_file"] = [int(source.line[row]) for row in one.pop("rows")]
    return found_plain


def to_plain(value: Any) -> Any:
    """Convert dataclasses and arrays to dictionaries and lists, and nan and infinity to None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(name): to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(one) for one in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
