"""Validation rules for settings and flags.

A rule's `read(value)` returns the value converted to its type, or raises a ValueError whose text is
empty or a hint at the nearest valid name; `expected` describes the valid values in words.
"""

import difflib
import math
import numbers
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from omfa_jax.core.errors import OmfaError

# counts of steps and examples are int32 on the devices
COUNT_MAX = 2**31 - 1
# jax.random.key, numpy and Grain all take a uint32 seed
SEED_MAX = 2**32 - 1
# the smallest normal float32 with a margin: devices flush anything smaller to 0
LEAST_ABOVE = 1.2e-38


@runtime_checkable
class Row(Protocol):
    """A validation rule for one value."""

    @property
    def expected(self) -> str:
        """A description of the valid values."""
        ...

    def read(self, value: Any) -> Any:
        """Return the value converted without loss; ValueError if it is invalid."""
        ...


@dataclass(frozen=True)
class Whole:
    """An integer from `least` to `most`, or the value `also`; booleans are not accepted."""

    least: int = 0
    most: int = COUNT_MAX
    also: int | None = None
    multiple_of: int = 1

    @property
    def expected(self) -> str:
        kind = f"a multiple of {self.multiple_of}" if self.multiple_of > 1 else "a whole number"
        beside = "" if self.also is None else f", or {self.also}"
        return f"{kind} from {self.least} to {self.most}{beside}"

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError
        found = int(value)
        inside = self.least <= found <= self.most and found % self.multiple_of == 0
        if not inside and found != self.also:
            raise ValueError
        return found


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`; `above` and `below` exclude the ends."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    @property
    def expected(self) -> str:
        low = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        return f"a number {low} {'and below' if self.below else 'to'} {self.most:g}"

    def read(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        try:
            found = float(value)
        except OverflowError:
            raise ValueError from None
        low = found > self.least if self.above else found >= self.least
        high = found < self.most if self.below else found <= self.most
        # a NaN fails both comparisons; a value that float32 flushes to 0 does not count as above 0
        if not (low and high) or (self.above and found - self.least < LEAST_ABOVE):
            raise ValueError
        return found


@dataclass(frozen=True)
class Flag:
    """True or False."""

    expected: str = "True or False"

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    """Any string without NUL, which neither a path nor a tokenizer accepts."""

    @property
    def expected(self) -> str:
        return "a text"

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        return str(value)


@dataclass(frozen=True)
class Choice:
    """One of `names`, or with `empty` also ""."""

    names: Collection[str]
    empty: bool = False

    @property
    def expected(self) -> str:
        return f"one of {', '.join(sorted(self.names))}{' or an empty text' * self.empty}"

    def read(self, value: Any) -> str:
        if isinstance(value, str) and (value in self.names or (self.empty and not value)):
            return str(value)
        near = difflib.get_close_matches(str(value), [*self.names], n=1, cutoff=0.5)
        raise ValueError(f"; did you mean {near[0]!r}?" if near else "")


@dataclass(frozen=True)
class Tuple:
    """A tuple or list of `least` to `most` entries that each satisfy `row`.

    With `distinct`, no two entries may be equal.
    """

    row: Row
    least: int
    most: int
    distinct: bool = False

    @property
    def expected(self) -> str:
        count = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
        return f"a tuple of {count}{' different' * self.distinct}, each {self.row.expected}"

    def read(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, tuple | list) or not self.least <= len(value) <= self.most:
            raise ValueError
        found = tuple(self.row.read(entry) for entry in value)
        if self.distinct and len(set(found)) < len(found):
            raise ValueError
        return found


SEED = Whole(0, SEED_MAX)


def fault(name: str, row: Row, value: Any) -> OmfaError | None:
    """Return a one-line error for an invalid value, or None for a valid one."""
    try:
        row.read(value)
    except ValueError as error:
        return OmfaError(f"{name}: expected {row.expected}, got {shown(value)}{error}")
    return None


def require(prefix: str, rows: Mapping[str, Row], settings: object) -> None:
    """Raise one OmfaError with a line for each attribute of `settings` that violates its rule."""
    # all at once: a user should not have to fix a config one error at a time
    found = (fault(f"{prefix}{name}", row, getattr(settings, name)) for name, row in rows.items())
    lines = [str(error) for error in found if error is not None]
    if lines:
        raise OmfaError("\n".join(lines))


def shown(value: Any) -> str:
    """Return a value formatted for an error message: one line of limited length."""
    # str() of an int is quadratic in its digits, and Python refuses beyond 4300 of them
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a whole number of {round(value.bit_length() * math.log10(2))} digits"
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return " ".join(short.repr(value).split())
