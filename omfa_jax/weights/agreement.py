"""Whether a config trains a source as it was trained: compared, or said to be ignored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.weights.scheduler import FILE, Statement

OVERRIDE = "--config.model.ignore_scheduler=true"
# of the source's own sampler; ours has its settings in the config
SWITCHES = (
    *("clip_sample", "thresholding", "set_alpha_to_one"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
)


def notes_of(
    statements: Sequence[Statement], scheduler: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return lines for the user: what a source states, leaves open, and what is not read of it."""
    notes = [f"trained with {statement.words}" for statement in statements if told(statement)]
    if not says_prediction(statements):
        notes.append("it does not say what its UNet predicts: taken for epsilon, as SDXL's")
    switches = [name for name in SWITCHES if (scheduler or {}).get(name)]
    if switches:
        notes.append(f"{FILE}: {', '.join(switches)} not read (of its own sampler alone)")
    return tuple(notes)


def told(statement: Statement) -> bool:
    """True for what an import says even if it is as usual, and for what is not."""
    return statement.field in ("prediction", "process") or statement.value is True


def says_prediction(statements: Iterable[Statement]) -> bool:
    """True if something says what the UNet predicts, were it nothing that is trained here."""
    return any(statement.field in ("prediction", "process") for statement in statements)


def compare(
    statements: Sequence[Statement], settings: DiffusionSettings, where: object, *, ignore: bool
) -> tuple[str, ...]:
    """Return notes about the two, or raise an OmfaError if the config says otherwise.

    The error is one line with the keys to set. With `ignore`, the disagreement is a note.
    """
    notes = []
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
    for statement in statements:
        before = stated.setdefault(statement.field, statement)
        if before.value != statement.value:
            return (
                f"contradicts itself: {before.words}, {statement.words}; find out which is true,"
                f" set config.diffusion.{statement.field} to it and give {override}"
            )
    schedule = settings.schedule
    ours = {
        "prediction": settings.prediction,
        "zero_terminal_snr": schedule.zero_terminal_snr,
        "spacing": schedule.spacing,
        "steps_offset": schedule.steps_offset,
    }
    theirs = {name: stated[name].value for name in stated}
    free = set()
    if theirs.get("zero_terminal_snr") and theirs.get("prediction") == "epsilon":
        # there is one spacing for these, whatever the source was sampled with
        free.add("spacing")
    if theirs.get("spacing", schedule.spacing) != "leading":
        # it shifts no others
        free.add("steps_offset")
    wrong = [n for n in ours if n in theirs and n not in free and theirs[n] != ours[n]]
    if not wrong:
        return ""
    said = " and ".join(stated[name].words for name in wrong)
    here = ", ".join(f"{name}={ours[name]!r}" for name in wrong)
    keys = " and ".join(f"config.diffusion.{name}={theirs[name]!r}" for name in wrong)
    return f"was trained with {said}, this config says {here}: set {keys}, or give {override}"
