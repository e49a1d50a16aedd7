"""DeepFashion's file names: gender, category word, id, outfit and view of a photo."""

import re
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
