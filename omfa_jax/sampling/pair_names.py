"""The pictures of a list of pairs: their files' names, and what their noise depends on."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.data.builders.raw_files import Pair

# a file's name has at most 255 bytes, with a suffix and the marks of a temporary file
MAX_NAME_BYTES = 180
HASH_DIGITS = 10


@dataclass(frozen=True)
class PairPicture:
    """A picture to make: the names of its photos as listed, and of its file without suffix.

    `garment` is "" in a task without a garment.
    """

    person: str
    garment: str
    name: str

    @property
    def identity(self) -> str:
        """What the noise depends on besides the seed."""
        return make_identity(self.person, self.garment)


def make_identity(person: str, garment: str) -> str:
    """Return a text that no other pair has: names have no slash."""
    return f"{person}/{garment}"


def name_pictures(pairs: Iterable[Pair]) -> list[PairPicture]:
    """Return a picture for each pair, named PERSON__GARMENT, or PERSON without a garment.

    If an earlier pair has that name (a.jpg and a.png; also in another case, which some file
    systems do not tell apart) or it is too long, digits of the pair's SHA-256 follow. A pair's name
    does not depend on the pairs after it, so that a list can grow.
    """
    taken: set[str] = set()
    found: list[PairPicture] = []
    for pair in pairs:
        name = "__".join(_get_stem(part) for part in (pair.person, pair.garment) if part)
        if len(name.encode()) > MAX_NAME_BYTES or _fold(name) in taken:
            identity = make_identity(pair.person, pair.garment)
            digest = hashlib.sha256(identity.encode()).hexdigest()
            short = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
            name = f"{short}__{digest[:HASH_DIGITS]}"
        taken.add(_fold(name))
        found.append(PairPicture(pair.person, pair.garment, name))
    return found


def drop_garments(pairs: Sequence[Pair]) -> list[Pair]:
    """Return each person once, in the order of the list, for a task without a garment."""
    return [Pair(person, "") for person in dict.fromkeys(pair.person for pair in pairs)]


def _get_stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    # a list may leave out suffixes, and "dr. no" has none
    return stem if dot and stem and f".{suffix.lower()}" in READ_SUFFIXES else name


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
