"""Label sets of human-parsing maps: the ids of the labels, and the labels of each garment category.

CIHP (Gong et al., "Instance-level Human Parsing via Part Grouping Network", 2018) is what
VITON-HD's `image-parse-v3` uses. LIP (Gong et al., "Look into Person", 2017) has 20 labels too, but
its 10 is jumpsuits, where CIHP's 10 is the skin of the torso. ATR (Liang et al., "Deep Human
Parsing with Active Template Regression", 2015) is DressCode's. DeepFashion-MultiModal has another
one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from omfa_jax.core.errors import OmfaError, make_unknown_name_error

Category = Literal["upper", "lower", "dress"]
CATEGORIES: tuple[Category, ...] = ("upper", "lower", "dress")


@dataclass(frozen=True)
class LabelSet:
    """A numbering of the parts of a dressed person.

    `ids`: the id of each label. `garments`: the labels of each garment category. `face`, `hair`:
    the labels of the head. `face_has_neck`: the neck is labelled as face. `spare_ids`: ids that
    some tools add; valid, but of no label.
    """

    name: str
    ids: Mapping[str, int]
    garments: Mapping[Category, tuple[str, ...]]
    face: tuple[str, ...]
    hair: tuple[str, ...]
    face_has_neck: bool = False
    spare_ids: tuple[int, ...] = ()

    def make_mask(
        self, labels: UInt8[np.ndarray, "h w"], names: Iterable[str]
    ) -> Bool[np.ndarray, "h w"]:
        """Return the mask of the named labels."""
        return np.isin(labels, [self.ids[name] for name in names])

    def make_garment_mask(
        self, labels: UInt8[np.ndarray, "h w"], category: Category
    ) -> Bool[np.ndarray, "h w"]:
        """Return the mask of the worn garment of a category."""
        return self.make_mask(labels, self.garments[category])

    def find_category(
        self,
        labels: UInt8[np.ndarray, "h w"],
        among: Sequence[Category] = CATEGORIES,
        least_area: float = 0.0,
    ) -> Category | Literal[""]:
        """Return the category of `among` with the largest area, the first of equals.

        "" if none covers more than the share `least_area` of the map.
        """
        names: list[Category] = [name for name in CATEGORIES if name in among]
        areas = [float(self.make_garment_mask(labels, name).mean()) for name in names]
        largest = int(np.argmax(areas))
        if areas[largest] > least_area:
            return names[largest]
        return ""

    def require_known_ids(self, labels: UInt8[np.ndarray, "h w"], what: str) -> None:
        """Raise an OmfaError if the map contains ids outside of the label set."""
        known = [*self.ids.values(), *self.spare_ids]
        # bincount: np.unique would sort all pixels
        foreign = np.setdiff1d(np.flatnonzero(np.bincount(labels.ravel())), known)
        if foreign.size:
            came = ", ".join(map(str, foreign[:5])) + (", ..." if foreign.size > 5 else "")
            raise OmfaError(
                f"{what}: expected {self.name} label ids (0 to {max(self.ids.values())}), found"
                f" {came}: the map is of another label set"
            )


_CIHP_NAMES = (
    *("background", "hat", "hair", "glove", "sunglasses", "upper", "dress", "coat", "socks"),
    *("pants", "torso_skin", "scarf", "skirt", "face", "left_arm", "right_arm", "left_leg"),
    *("right_leg", "left_shoe", "right_shoe"),
)
_LIP_NAMES = tuple("jumpsuits" if name == "torso_skin" else name for name in _CIHP_NAMES)
_ATR_NAMES = (
    *("background", "hat", "hair", "sunglasses", "upper", "skirt", "pants", "dress", "belt"),
    *("left_shoe", "right_shoe", "face", "left_leg", "right_leg", "left_arm", "right_arm"),
    *("bag", "scarf"),
)
_DEEPFASHION_NAMES = (
    *("background", "top", "outer", "skirt", "dress", "pants", "leggings", "headwear"),
    *("eyeglass", "neckwear", "belt", "footwear", "bag", "hair", "face", "skin", "ring"),
    *("wrist_wearing", "socks", "gloves", "necklace", "rompers", "earrings", "tie"),
)


def _number_names(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


CIHP = LabelSet(
    "CIHP",
    _number_names(_CIHP_NAMES),
    {"upper": ("upper", "coat"), "lower": ("pants", "skirt"), "dress": ("dress",)},
    face=("face", "sunglasses"),
    hair=("hair", "hat"),
)
LIP = LabelSet(
    "LIP",
    _number_names(_LIP_NAMES),
    {"upper": ("upper", "coat"), "lower": ("pants", "skirt"), "dress": ("dress", "jumpsuits")},
    face=("face", "sunglasses"),
    hair=("hair", "hat"),
)
# ATR labels the neck as face; OOTDiffusion writes it as 18
ATR = LabelSet(
    "ATR",
    _number_names(_ATR_NAMES),
    {"upper": ("upper",), "lower": ("skirt", "pants", "belt"), "dress": ("dress",)},
    face=("face", "sunglasses"),
    hair=("hair", "hat"),
    face_has_neck=True,
    spare_ids=(18,),
)
DEEPFASHION = LabelSet(
    "DeepFashion-MultiModal",
    _number_names(_DEEPFASHION_NAMES),
    {
        "upper": ("top", "outer"),
        "lower": ("skirt", "pants", "leggings"),
        "dress": ("dress", "rompers"),
    },
    face=("face", "eyeglass"),
    hair=("hair", "headwear"),
)
# DensePose's 24 surface parts; 23 and 24 are the halves of the head, without the hair
DENSEPOSE = LabelSet(
    "DensePose",
    _number_names(["background", *(f"part_{number}" for number in range(1, 25))]),
    {"upper": (), "lower": (), "dress": ()},
    face=("part_23", "part_24"),
    hair=(),
)
LABEL_SETS = {"cihp": CIHP, "lip": LIP, "atr": ATR, "deepfashion": DEEPFASHION}


def get_label_set(name: str) -> LabelSet:
    """Return the label set of a name in LABEL_SETS; OmfaError with the nearest names if unknown."""
    if name not in LABEL_SETS:
        raise make_unknown_name_error("label set", name, LABEL_SETS)
    return LABEL_SETS[name]
