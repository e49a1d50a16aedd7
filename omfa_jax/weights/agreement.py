"""Whether a config trains a source as it was trained: compared, or said to be ignored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import SCHEDULE
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.weights.scheduler import FILE, READ, Statement, flag_of, says_nothing, short

OVERRIDE = "--config.model.ignore_scheduler=true"
# of the source's own sampler, which ours replaces -> what is usual; () for what hardly matters
SAMPLERS_OWN: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("clip_sample", "thresholding", "set_alpha_to_one"), (False,)),
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas"), (False,)),
    **dict.fromkeys(("use_beta_sigmas", "use_lu_lambdas", "euler_at_final"), (False,)),
    "interpolation_type": ("linear",),
    "final_sigmas_type": ("zero",),
    "variance_type": ("fixed_small",),
    "lambda_min_clipped": (-math.inf,),
    # of flow matching alone
    "flow_shift": (1.0,),
    "use_dynamic_shifting": (False,),
    **dict.fromkeys(("shift_terminal", "time_shift_type"), ()),
    # of solvers and of what is switched above
    **dict.fromkeys(("algorithm_type", "solver_type", "solver_order", "solver_p"), ()),
    **dict.fromkeys(("lower_order_final", "predictor_order", "corrector_order"), ()),
    **dict.fromkeys(("disable_corrector", "predict_x0", "skip_prk_steps", "tau_func"), ()),
    **dict.fromkeys(("original_inference_steps", "timestep_scaling"), ()),
    **dict.fromkeys(("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"), ()),
}


def notes_of(
    statements: Sequence[Statement], scheduler: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return lines for the user: what a source states, leaves open, and what is not read of it."""
    notes = [f"trained with {statement.words}" for statement in statements if told(statement)]
    if not says_prediction(statements):
        notes.append("it does not say what its UNet predicts: taken for epsilon, as SDXL's")
    said = {name: v for name, v in (scheduler or {}).items() if not says_nothing(v)}
    own = [n for n, usual in SAMPLERS_OWN.items() if n in said and unusual(said[n], usual)]
    if own:
        notes.append(f"{FILE}: {', '.join(own)} not read (of its own sampler alone)")
    others = [n for n in said if n not in (*READ, *SAMPLERS_OWN) and not n.startswith("_")]
    if others:
        notes.append(f"{FILE}: not read: {', '.join(f'{n}={short(said[n])}' for n in others)}")
    return tuple(notes)


def unusual(value: Any, usual: Sequence[Any]) -> bool:
    """True if a sampler's setting is none of the usual ones, of which there may be no list."""
    off = flag_of(value) is False and False in usual
    return bool(usual) and not off and value not in usual


def told(statement: Statement) -> bool:
    """True for what an import says even if it is as usual, and for what is not."""
    zero = statement.field == "zero_terminal_snr" and statement.value is True
    return zero or statement.field in ("prediction", "process")


def says_prediction(statements: Iterable[Statement]) -> bool:
    """True if something says what the UNet predicts, were it nothing that is trained here."""
    return any(statement.field in ("prediction", "process") for statement in statements)


def compare(
    statements: Sequence[Statement], settings: DiffusionSettings, where: object, *, ignore: bool
) -> tuple[str, ...]:
    """Return notes about the two, or raise an OmfaError if the config says otherwise.

    The error is one line with the keys to set. With `ignore`, the disagreement is a note. How the
    source is sampled does not change what its weights mean: that is a note always.
    """
    notes = [f"{where} {note}" for note in sampling_notes(statements, settings)]
    if not says_prediction(statements):
        assumed = Statement("prediction", "epsilon", "it does not say, and SDXL's is")
        statements = [*statements, assumed]
    zero = settings.schedule.zero_terminal_snr
    if zero and all(statement.field != "zero_terminal_snr" for statement in statements):
        notes.append(f"{where} does not speak of zero terminal SNR, with which this config trains")
    fault = disagreement(statements, settings)
    if fault and not ignore:
        raise OmfaError(f"{where} {fault}")
    if fault:
        notes.append(f"{OVERRIDE}: trained all the same, though {where} {fault}")
    return tuple(notes)


def sampling_notes(statements: Sequence[Statement], settings: DiffusionSettings) -> list[str]:
    """Return ends of lines about how a source is sampled where this config samples otherwise."""
    schedule, notes = settings.schedule, []
    stated = {s.field: s for s in statements if s.field in ("spacing", "steps_offset")}
    theirs = {name: statement.value for name, statement in stated.items()}
    for name, statement in stated.items():
        ours, value = getattr(schedule, name), theirs[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            value = SCHEDULE[name].read(value)
        except ValueError:
            notes.append(
                f"is sampled with a {name} that is unknown, expected {SCHEDULE[name].expected}"
                f" ({statement.said}): this config samples with {name}={ours!r}"
            )
            continue
        # the offset shifts no others; and epsilon with zero terminal SNR has one spacing
        shifts = theirs.get("spacing", schedule.spacing) == "leading"
        counts = shifts if name == "steps_offset" else not settings.epsilon_zero_snr
        if value == ours or not counts:
            continue
        note = (
            f"is sampled with {name}={value!r} ({statement.said}), this config samples with"
            f" {name}={ours!r}: --config.diffusion.{name}={value} to sample it alike"
        )
        if ours == "leading" and schedule.zero_terminal_snr:
            note += "; 'leading' hardly ever visits the last timestep, pure noise"
        notes.append(note)
    return notes


def disagreement(statements: Sequence[Statement], settings: DiffusionSettings) -> str:
    """Return the end of a line about what a config does not agree with, "" if there is nothing."""
    override = f"{OVERRIDE} to train it as this config says all the same"
    processes = [statement for statement in statements if statement.field == "process"]
    if processes:
        said = " and ".join(statement.words for statement in processes)
        return (
            f"was trained with {said}, which no setting of config.diffusion is: give weights that"
            f" predict epsilon or v on SDXL's schedule, or give {override}"
        )
    stated: dict[str, Statement] = {}
    for statement in (s for s in statements if s.field in ("prediction", "zero_terminal_snr")):
        before = stated.setdefault(statement.field, statement)
        if before.value != statement.value:
            return (
                f"contradicts itself: {before.words}, {statement.words}; find out which is true,"
                f" set config.diffusion.{statement.field} to it and give {override}"
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
        # the only one that a config of these two may have
        wanted["spacing"] = "leading"
    keys = " and ".join(f"config.diffusion.{name}={value!r}" for name, value in wanted.items())
    return f"was trained with {said}, this config says {here}: set {keys}, or give {override}"
