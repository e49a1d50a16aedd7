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
from omfa_jax.core.local_paths import expand_home, find_path_fault

# counts of steps and examples are int32 on the devices
MAX_COUNT = 2**31 - 1
# jax.random.key, numpy and Grain all take a uint32 seed
MAX_SEED = 2**32 - 1
# the smallest normal float32 with a margin: devices flush anything smaller to 0
MIN_POSITIVE = 1.2e-38


@runtime_checkable
class Rule(Protocol):
    """A validation rule for one value."""

    @property
    def expected(self) -> str:
        """A description of the valid values."""
        ...

    def read(self, value: Any) -> Any:
        """Return the value converted without loss; ValueError if it is invalid."""
        ...


@dataclass(frozen=True)
class IntRange:
    """An integer from `minimum` to `maximum`, or `or_value`; booleans are not accepted."""

    minimum: int = 0
    maximum: int = MAX_COUNT
    or_value: int | None = None
    multiple_of: int = 1

    @property
    def expected(self) -> str:
        kind = f"a multiple of {self.multiple_of}" if self.multiple_of > 1 else "an integer"
        beside = "" if self.or_value is None else f", or {self.or_value}"
        return f"{kind} from {self.minimum} to {self.maximum}{beside}"

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError
        found = int(value)
        inside = self.minimum <= found <= self.maximum and found % self.multiple_of == 0
        if not inside and found != self.or_value:
            raise ValueError
        return found


@dataclass(frozen=True)
class FloatRange:
    """A finite number from `minimum` to `maximum`; the `exclusive_*` flags exclude the ends."""

    minimum: float
    maximum: float
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False

    @property
    def expected(self) -> str:
        low = f"above {self.minimum:g}" if self.exclusive_minimum else f"from {self.minimum:g}"
        return f"a number {low} {'and below' if self.exclusive_maximum else 'to'} {self.maximum:g}"

    def read(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        try:
            found = float(value)
        except OverflowError:
            raise ValueError from None
        low = found > self.minimum if self.exclusive_minimum else found >= self.minimum
        high = found < self.maximum if self.exclusive_maximum else found <= self.maximum
        # a NaN fails both comparisons; a value that float32 flushes to 0 does not count as above 0
        if not (low and high) or (self.exclusive_minimum and found - self.minimum < MIN_POSITIVE):
            raise ValueError
        return found


@dataclass(frozen=True)
class Boolean:
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
class LocalPath:
    """A path on this machine, "" for none; with `separator` a list of such paths.

    `read` expands a leading ~ of each path. `allow_storage`: or of object storage, such as gs://b/x.
    """

    separator: str = ""
    allow_storage: bool = False

    @property
    def expected(self) -> str:
        return "the name of a file or folder, or an empty text"

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        if not value:
            return ""
        parts = value.split(self.separator) if self.separator else [value]
        for part in parts:
            # a list may end with a separator
            if (part.strip() or not self.separator) and (
                fault := find_path_fault(part, allow_storage=self.allow_storage)
            ):
                raise ValueError(f"; {fault}")
        return self.separator.join(map(expand_home, parts))


@dataclass(frozen=True)
class Choice:
    """One of `names`, or with `allow_empty` also ""."""

    names: Collection[str]
    allow_empty: bool = False

    @property
    def expected(self) -> str:
        return f"one of {', '.join(sorted(self.names))}{' or an empty text' * self.allow_empty}"

    def read(self, value: Any) -> str:
        if isinstance(value, str) and (value in self.names or (self.allow_empty and not value)):
            return str(value)
        near = difflib.get_close_matches(str(value), [*self.names], n=1, cutoff=0.5)
        raise ValueError(f"; did you mean {near[0]!r}?" if near else "")


@dataclass(frozen=True)
class TupleOf:
    """A tuple or list of `min_length` to `max_length` entries that each satisfy `rule`.

    With `unique`, no two entries may be equal.
    """

    rule: Rule
    min_length: int
    max_length: int
    unique: bool = False

    @property
    def expected(self) -> str:
        count = (
            str(self.min_length)
            if self.min_length == self.max_length
            else f"{self.min_length} to {self.max_length}"
        )
        return f"a tuple of {count}{' different' * self.unique}, each {self.rule.expected}"

    def read(self, value: Any) -> tuple[Any, ...]:
        if (
            not isinstance(value, tuple | list)
            or not self.min_length <= len(value) <= self.max_length
        ):
            raise ValueError
        found = tuple(self.rule.read(entry) for entry in value)
        if self.unique and len(set(found)) < len(found):
            raise ValueError
        return found


SEED_RULE = IntRange(0, MAX_SEED)


def check_value(name: str, row: Rule, value: Any) -> OmfaError | None:
    """Return a one-line error for an invalid value, or None for a valid one."""
    try:
        row.read(value)
    except ValueError as error:
        return OmfaError(f"{name}: expected {row.expected}, got {format_value(value)}{error}")
    return None


def check_fields(prefix: str, rows: Mapping[str, Rule], settings: object) -> None:
    """Raise one OmfaError with a line for each attribute of `settings` that violates its rule."""
    # all at once: a user should not have to fix a config one error at a time
    found = (
        check_value(f"{prefix}{name}", row, getattr(settings, name)) for name, row in rows.items()
    )
    lines = [str(error) for error in found if error is not None]
    if lines:
        raise OmfaError("\n".join(lines))


def format_value(value: Any) -> str:
    """Return a value formatted for an error message: one line of limited length."""
    # str() of an int is quadratic in its digits, and Python refuses beyond 4300 of them
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"an integer of {round(value.bit_length() * math.log10(2))} digits"
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return " ".join(short.repr(value).split())
