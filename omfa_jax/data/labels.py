"""Label ids of human-parsing maps, by name.

The ids are CIHP's (Gong et al., "Instance-level Human Parsing via Part Grouping Network", 2018),
which VITON-HD's `image-parse-v3` uses. LIP has 20 slots too, but its 10 means jumpsuits.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

CIHP = {
    "background": 0,
    "hat": 1,
    "hair": 2,
    "glove": 3,
    "sunglasses": 4,
    "upper": 5,
    "dress": 6,
    "coat": 7,
    "socks": 8,
    "pants": 9,
    "torso_skin": 10,
    "scarf": 11,
    "skirt": 12,
    "face": 13,
    "left_arm": 14,
    "right_arm": 15,
    "left_leg": 16,
    "right_leg": 17,
    "left_shoe": 18,
    "right_shoe": 19,
}
GARMENT = ("upper", "dress", "coat")
FACE = ("face", "sunglasses")
HAIR = ("hair", "hat")


def ids(names: Iterable[str]) -> list[int]:
    """Return the CIHP ids of label names."""
    return [CIHP[name] for name in names]


def mask(labels: UInt8[np.ndarray, "h w"], names: Iterable[str]) -> Bool[np.ndarray, "h w"]:
    """Return True where the map shows one of the named labels."""
    return np.isin(labels, ids(names))


def category(labels: UInt8[np.ndarray, "h w"]) -> Literal["upper", "dress", ""]:
    """Return where the larger part of the garment is worn, or "" if the map shows no garment."""
    dress, upper = int(mask(labels, ["dress"]).sum()), int(mask(labels, ["upper", "coat"]).sum())
    if not dress and not upper:
        return ""
    return "dress" if dress > upper else "upper"
