"""Parse DeepFashion's file names, and assign splits by person id."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from omfa_jax.data.builders.label_sets import Category

_NAME = re.compile(r"(MEN|WOMEN)-([A-Za-z_]+)-id_(\d{8})-(\d{2})_(\d)_([a-z]+)")

# in the order of how well they show the garment
VIEWS = ("front", "full", "side", "additional", "flat", "back")

# category words of the in-shop benchmark, without Denim: trousers, jackets or dresses
CATEGORY_WORDS: dict[Category, tuple[str, ...]] = {
    "upper": (
        *("Blouses_Shirts", "Cardigans", "Graphic_Tees", "Jackets_Coats", "Jackets_Vests"),
        *("Shirts_Polos", "Suiting", "Sweaters", "Sweatshirts_Hoodies", "Tees_Tanks"),
    ),
    "lower": ("Leggings", "Pants", "Shorts", "Skirts"),
    "dress": ("Dresses", "Rompers_Jumpsuits"),
}

# about 42,550 train, 440 val and 1,100 test of 44,096 photos
DEFAULT_SHARES = (0.965, 0.01, 0.025)


@dataclass(frozen=True)
class PhotoName:
    """The parts of a file name such as MEN-Denim-id_00000080-01_7_additional."""

    gender: str
    category: str
    person_id: str
    outfit: str
    view: str

    @property
    def group(self) -> str:
        """The prefix shared by the photos of one person in one outfit."""
        return f"{self.gender}-{self.category}-id_{self.person_id}-{self.outfit}"


def parse_photo_name(stem: str) -> PhotoName | None:
    """Return the parts of a file name without suffix; None if it has another form."""
    found = _NAME.fullmatch(stem)
    if found is None:
        return None
    gender, category, person_id, outfit, _, view = found.groups()
    return PhotoName(gender, category, person_id, outfit, view)


def get_garment_category(category_word: str) -> Category | Literal[""]:
    """Return the garment category of a category word; "" if it is ambiguous."""
    for name, words in CATEGORY_WORDS.items():
        if category_word in words:
            return name
    return ""


def assign_split(person_id: str, seed: int = 0, shares: Sequence[float] = DEFAULT_SHARES) -> str:
    """Return the split of a person: the interval in which SHA-256 of "seed:id" falls.

    The digest is scaled to [0, 1), of which test takes the first part, then val, then train. All
    photos of an id are in the same split, whatever else is in the folder.
    """
    digest = hashlib.sha256(f"{seed}:{person_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    _, val, test = shares
    if place < test:
        return "test"
    return "val" if place < test + val else "train"
