"""Tensors that do not fill a network, as one report: what, how many, and what to do about it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.tensor_files import MAX_LISTED, make_printable

# the mark of each kind -> its name and what to do about it, the likeliest cause first
KINDS = {
    "?": ("unusable", "give the weights in floating point, with each tensor once"),
    "~": (
        "misshapen",
        "the shapes are another model's: give weights and config.json of the same SDXL model",
    ),
    "-": ("missing", "the weights are incomplete: fetch or convert them again"),
    "+": ("unexpected", "give SDXL weights without additions to the network"),
    "!": (
        "with NaN or infinity",
        "the weights were saved broken, or overflowed in half precision: give another copy",
    ),
}
RENAMED = "the names are not SDXL's: give SDXL weights under diffusers' or the original names"


@dataclass
class Mismatches:
    """Why a component's tensors do not fill its tree, as lists of the source's keys."""

    where: str
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    unusable: list[str]
    not_finite: list[str] = field(default_factory=list)

    @property
    def counts(self) -> str:
        """The count of each kind with the mark of its lines; empty without mismatches."""
        return ", ".join(
            f"{len(names)} {KINDS[mark][0]} ({mark})" for mark, names in self.by_mark.items()
        )

    @property
    def lines(self) -> list[str]:
        """Lines that start with the mark of their kind: ten mismatches of each, then the count."""
        lines = []
        for mark, names in self.by_mark.items():
            lines += [f"{mark} {make_printable(name)}" for name in names[:MAX_LISTED]]
            if len(names) > MAX_LISTED:
                lines.append(f"{mark} and {len(names) - MAX_LISTED} more")
        return lines

    @property
    def by_mark(self) -> dict[str, list[str]]:
        """The mismatches of each kind that occurs."""
        found = {
            "-": self.missing,
            "+": self.unexpected,
            "~": self.misshapen,
            "?": self.unusable,
            "!": self.not_finite,
        }
        return {mark: names for mark, names in found.items() if names}


def raise_mismatches(found: Collection[Mismatches]) -> None:
    """Raise one OmfaError with the mismatches of all components, if there are any.

    The counts and the advice come last, so that they are visible in a terminal.
    """
    faulty = [faults for faults in found if faults.by_mark]
    if faulty:
        lines = [f"  {line}" for faults in faulty for line in (faults.where, *faults.lines)]
        counts = [f"{faults.where}: {faults.counts}" for faults in faulty]
        marks = {mark for faults in faulty for mark in faults.by_mark}
        # kinds come together: what is renamed is both missing and unexpected
        advice = next(text for mark, (_, text) in KINDS.items() if mark in marks)
        if {"-", "+"} <= marks and advice == KINDS["-"][1]:
            advice = RENAMED
        raise OmfaError(
            "\n".join(["the weights do not match the network:", *lines, *counts, advice])
        )
