"""Checks that a config trains source weights with the schedule they were trained with."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import SCHEDULE_RULES
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.weights.scheduler_statements import (
    READ_KEYS,
    SCHEDULER_FILE,
    Statement,
    is_unset,
    parse_flag,
    shorten,
)

OVERRIDE = "--config.model.ignore_scheduler=true"
# settings of the source's sampler, which this package's sampler replaces -> usual values; () where
# any value is fine
SAMPLER_DEFAULTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("clip_sample", "thresholding", "set_alpha_to_one"), (False,)),
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas"), (False,)),
    **dict.fromkeys(("use_beta_sigmas", "use_lu_lambdas", "euler_at_final"), (False,)),
    "interpolation_type": ("linear",),
    "final_sigmas_type": ("zero",),
    "variance_type": ("fixed_small",),
    "lambda_min_clipped": (-math.inf,),
    # flow matching only
    "flow_shift": (1.0,),
    "use_dynamic_shifting": (False,),
    **dict.fromkeys(("shift_terminal", "time_shift_type"), ()),
    # solvers, and details of the switches above
    **dict.fromkeys(("algorithm_type", "solver_type", "solver_order", "solver_p"), ()),
    **dict.fromkeys(("lower_order_final", "predictor_order", "corrector_order"), ()),
    **dict.fromkeys(("disable_corrector", "predict_x0", "skip_prk_steps", "tau_func"), ()),
    **dict.fromkeys(("original_inference_steps", "timestep_scaling"), ()),
    **dict.fromkeys(("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"), ()),
}


def describe_source(
    statements: Sequence[Statement], scheduler: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return lines for the user: what a source states, what it leaves open, what is not read."""
    notes = [
        f"trained with {statement.words}" for statement in statements if is_reported(statement)
    ]
    if not states_prediction(statements):
        notes.append("it does not state its prediction type: assuming epsilon, as in SDXL")
    said = {name: v for name, v in (scheduler or {}).items() if not is_unset(v)}
    own = [n for n, usual in SAMPLER_DEFAULTS.items() if n in said and is_unusual(said[n], usual)]
    if own:
        notes.append(
            f"{SCHEDULER_FILE}: {', '.join(own)} not read (they affect only its own sampler)"
        )
    others = [n for n in said if n not in (*READ_KEYS, *SAMPLER_DEFAULTS) and not n.startswith("_")]
    if others:
        notes.append(
            f"{SCHEDULER_FILE}: not read: {', '.join(f'{n}={shorten(said[n])}' for n in others)}"
        )
    return tuple(notes)


def is_unusual(value: Any, usual: Sequence[Any]) -> bool:
    """Return True if a sampler's setting has a list of usual values and is not among them."""
    off = parse_flag(value) is False and False in usual
    return bool(usual) and not off and value not in usual


def is_reported(statement: Statement) -> bool:
    """Return True for statements that an import always reports."""
    zero = statement.field == "zero_terminal_snr" and statement.value is True
    return zero or statement.field in ("prediction", "process")


def states_prediction(statements: Iterable[Statement]) -> bool:
    """Return True if a statement gives the prediction type, even an unsupported one."""
    return any(statement.field in ("prediction", "process") for statement in statements)


def check_agreement(
    statements: Sequence[Statement], settings: DiffusionSettings, where: object, *, ignore: bool
) -> tuple[str, ...]:
    """Return notes on how a config differs from its source; a conflict is an OmfaError.

    The error is one line with the keys to set. With `ignore`, the conflict becomes a note.
    Differences in sampling are always notes: they do not change what the weights predict.
    """
    notes = [f"{where} {note}" for note in compare_sampling(statements, settings)]
    if not states_prediction(statements):
        assumed = Statement("prediction", "epsilon", "not stated; SDXL's default")
        statements = [*statements, assumed]
    zero = settings.schedule.zero_terminal_snr
    if zero and all(statement.field != "zero_terminal_snr" for statement in statements):
        notes.append(f"{where} does not state zero terminal SNR, which this config trains with")
    fault = find_disagreement(statements, settings)
    if fault and not ignore:
        raise OmfaError(f"{where} {fault}")
    if fault:
        notes.append(f"{OVERRIDE}: training anyway, although {where} {fault}")
    return tuple(notes)


def compare_sampling(statements: Sequence[Statement], settings: DiffusionSettings) -> list[str]:
    """Return the sampling settings that differ, as sentences without their subject (the source)."""
    schedule, notes = settings.schedule, []
    stated = {s.field: s for s in statements if s.field in ("spacing", "steps_offset")}
    theirs = {name: statement.value for name, statement in stated.items()}
    for name, statement in stated.items():
        ours, value = getattr(schedule, name), theirs[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            value = SCHEDULE_RULES[name].read(value)
        except ValueError:
            notes.append(
                f"is sampled with an unknown {name}, expected {SCHEDULE_RULES[name].expected}"
                f" ({statement.quote}): this config samples with {name}={ours!r}"
            )
            continue
        # the offset only affects leading spacing; epsilon with zero terminal SNR has one spacing
        shifts = theirs.get("spacing", schedule.spacing) == "leading"
        counts = shifts if name == "steps_offset" else not settings.epsilon_zero_snr
        if value == ours or not counts:
            continue
        note = (
            f"is sampled with {name}={value!r} ({statement.quote}), this config samples with"
            f" {name}={ours!r}: give --config.diffusion.{name}={value} to sample it the same way"
        )
        if ours == "leading" and schedule.zero_terminal_snr:
            note += "; 'leading' almost never visits the last timestep, which is pure noise"
        notes.append(note)
    return notes


def find_disagreement(statements: Sequence[Statement], settings: DiffusionSettings) -> str:
    """Return the conflict as a sentence without its subject (the source); "" if there is none."""
    override = f"{OVERRIDE} to train it with this config anyway"
    # first, because no setting of a key could resolve it
    processes = [statement for statement in statements if statement.field == "process"]
    if processes:
        said = " and ".join(statement.words for statement in processes)
        return (
            f"was trained with {said}, which config.diffusion cannot express: give weights that"
            f" predict epsilon or v on SDXL's schedule, or give {override}"
        )
    stated: dict[str, Statement] = {}
    for statement in (s for s in statements if s.field in ("prediction", "zero_terminal_snr")):
        before = stated.setdefault(statement.field, statement)
        if before.value != statement.value:
            return (
                f"contradicts itself: {before.words}, {statement.words}; find out which is right,"
                f" set config.diffusion.{statement.field} accordingly and give {override}"
            )
    schedule, spacing = settings.schedule, settings.schedule.spacing
    ours = {
        "prediction": settings.prediction,
        "zero_terminal_snr": schedule.zero_terminal_snr,
    }
    theirs = {name: statement.value for name, statement in stated.items()}
    wrong = [n for n in ours if n in theirs and theirs[n] != ours[n]]
    if not wrong:
        return ""
    said = " and ".join(stated[name].words for name in wrong)
    here = ", ".join(f"{name}={ours[name]!r}" for name in wrong)
    wanted = {name: theirs[name] for name in wrong}
    both = {**ours, **theirs}
    if both == {"prediction": "epsilon", "zero_terminal_snr": True} and spacing != "leading":
        # the only spacing that this combination allows
        wanted["spacing"] = "leading"
    keys = " and ".join(f"config.diffusion.{name}={value!r}" for name, value in wanted.items())
    return f"was trained with {said}, this config has {here}: set {keys}, or give {override}"
