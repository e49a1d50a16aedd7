"""DeepFashion's file names: gender, category word, id, outfit, view; and the split by id."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from omfa_jax.data.labels import Category

_NAME = re.compile(r"(MEN|WOMEN)-([A-Za-z_]+)-id_(\d{8})-(\d{2})_(\d)_([a-z]+)")

# from the view that shows a garment best to the one that shows it worst
VIEWS = ("front", "full", "side", "additional", "flat", "back")

# what the category words of the in-shop benchmark sell; denim may be trousers, jackets or dresses
SOLD: dict[Category, tuple[str, ...]] = {
    "upper": (
        *("Blouses_Shirts", "Cardigans", "Graphic_Tees", "Jackets_Coats", "Jackets_Vests"),
        *("Shirts_Polos", "Suiting", "Sweaters", "Sweatshirts_Hoodies", "Tees_Tanks"),
    ),
    "lower": ("Leggings", "Pants", "Shorts", "Skirts"),
    "dress": ("Dresses", "Rompers_Jumpsuits"),
}

# of 44,096 photos about 42,550 train, 440 val and 1,100 test
DEFAULT_SHARES = (0.965, 0.01, 0.025)


@dataclass(frozen=True)
class PhotoName:
    """The parts of a name such as MEN-Denim-id_00000080-01_7_additional."""

    gender: str
    category: str
    person_id: str
    outfit: str
    view: str

    @property
    def group(self) -> str:
        """The part of the name that photos of one person in one outfit share."""
        return f"{self.gender}-{self.category}-id_{self.person_id}-{self.outfit}"


def parse_name(stem: str) -> PhotoName | None:
    """Return the parts of a photo's name without its suffix; None if it is not in this form."""
    found = _NAME.fullmatch(stem)
    if found is None:
        return None
    gender, category, person_id, outfit, _, view = found.groups()
    return PhotoName(gender, category, person_id, outfit, view)


def garment_sold(category_word: str) -> Category | Literal[""]:
    """Return where the garment of a category word is worn; "" if the word leaves it open."""
    for name, words in SOLD.items():
        if category_word in words:
            return name
    return ""


def split_of(person_id: str, seed: int = 0, shares: Sequence[float] = DEFAULT_SHARES) -> str:
    """Return the split of a person: where SHA-256 of "seed:id", as a fraction of 1, falls.

    Test comes first in [0, 1), then val, then train; so all photos of one id are in one split,
    whatever else is in the folder.
    """
    digest = hashlib.sha256(f"{seed}:{person_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    _, val, test = shares
    if place < test:
        return "test"
    return "val" if place < test + val else "train"
