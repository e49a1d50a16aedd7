"""Exact answers of synthetic data: rendered images for an unpaired garment or a new pose.

`omfa data synthesize` writes them to SPLIT/truth of its raw folder, in files that are named by
number: person_garment_pose. The unpaired garment is that of the pairs file, the new pose that of
the next person. Real data sets have no exact answers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import letterbox, read_labels, read_rgb
from omfa_jax.core.path_checks import require_dir
from omfa_jax.data.builders.label_sets import CIHP
from omfa_jax.data.builders.viton_hd import PARSE_DIRS

KINDS = ("unpaired", "new_pose")
# condition -> the region of the image that it determines
REGIONS = {"garment": "garment", "face": "head", "pose": "person"}
BLACK = 0


@dataclass(frozen=True)
class TruthAnswer:
    """The exact image, the masks of its garment and its person, and its pose map."""

    image: UInt8[np.ndarray, "h w 3"]
    garment: Bool[np.ndarray, "h w"]
    person: Bool[np.ndarray, "h w"]
    pose: UInt8[np.ndarray, "h w 3"]


class ExactTruth:
    """The answers of one split of a synthetic raw folder."""

    def __init__(self, raw: Path, split: str = "test"):
        self._folder = require_dir(raw / split / "truth", "exact truth", "--truth")
        if not (self._folder / "pose").is_dir():
            raise OmfaError(
                f"{self._folder} has no pose maps: run `omfa data poses --raw {raw}` first"
            )
        pairs = raw / f"{split}_pairs.txt"
        # the answers were rendered for the pairs of this file and no others
        lines = [line.split() for line in pairs.read_text().splitlines() if line.strip()]
        self._partner = {Path(person).stem: Path(garment).stem for person, garment in lines}

    def has_answer(self, name: str, kind: str) -> bool:
        """Return whether the person `name` has an answer of this kind."""
        return (self._folder / "image" / f"{self._stem(name, kind)}.jpg").is_file()

    def read_answer(self, name: str, kind: str) -> TruthAnswer:
        """Read the answer for the person `name`; OmfaError if it cannot be read."""
        stem = self._stem(name, kind)
        image = read_rgb(self._folder / "image" / f"{stem}.jpg", f"{kind} truth")
        labels = read_labels(self._folder / PARSE_DIRS[0] / f"{stem}.png", f"{kind} truth's parse")
        return TruthAnswer(
            image,
            CIHP.make_garment_mask(labels, "upper"),
            labels != CIHP.ids["background"],
            self.read_pose_map(name, kind),
        )

    def read_pose_map(self, name: str, kind: str) -> UInt8[np.ndarray, "h w 3"]:
        """Read the pose map of an answer."""
        path = self._folder / "pose" / f"{self._stem(name, kind)}.png"
        return read_rgb(path, f"{kind} truth's pose map")

    def read_slot_pose(self, name: str, kind: str, size_px: tuple[int, int]) -> np.ndarray:
        """Return the pose map as the model's input: letterboxed into the person's slot."""
        # black is the background of pose maps; the default of letterbox is white
        return letterbox(self.read_pose_map(name, kind), *size_px, fill=BLACK)

    def _stem(self, name: str, kind: str) -> str:
        person = name.split("_")[0]
        try:
            if kind == "unpaired":
                return f"{person}_{self._partner[name].split('_')[0]}_{person}"
            # the numbers of the synthetic people are consecutive
            return f"{person}_{person}_{int(person) + 1:05d}"
        except (KeyError, ValueError):
            raise OmfaError(
                f"no exact truth for {name!r}: --truth must be the synthetic raw folder that the"
                " records were built from"
            ) from None


class ConditionRegions:
    """Regions of a person's photo that a condition determines, from the raw folder's parse maps."""

    def __init__(self, raw: Path, split: str = "test"):
        folders = [raw / split / name for name in PARSE_DIRS]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is None:
            raise OmfaError(
                f"no parse maps in {raw / split} ({' or '.join(PARSE_DIRS)}); change --regions"
            )
        self._folder = found

    def read_region(
        self, name: str, condition: str, category: str
    ) -> Bool[np.ndarray, "h w"] | None:
        """Return the condition's mask in the photo `name` (True: region); None if it is empty."""
        labels = read_labels(self._folder / f"{name}.png", "parse map")
        masks = {
            "garment": lambda: CIHP.make_garment_mask(labels, category or "upper"),  # type: ignore[arg-type]
            "head": lambda: CIHP.make_mask(labels, (*CIHP.face, *CIHP.hair)),
            "person": lambda: labels != CIHP.ids["background"],
        }
        region = masks[REGIONS[condition]]()
        return region if region.any() else None
