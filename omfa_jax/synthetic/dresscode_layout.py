"""Write a synthetic data set in DressCode's layout, with tops and trousers but without dresses.

Every third person is in lower_body, shown down to the shins. The world has no shop photos of
trousers: they are cut out of a photo of the same person standing with the arms held away, in which
the top covers them down to its hem. In addition to DressCode's files there are body parameters
(smplx/), and lists for val if there is a val split.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from omfa_jax.body.body_file import save_body
from omfa_jax.body.keypoints.file_people import DRESSCODE_FRAME_PX
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.garment_cutout import cut_out_garment
from omfa_jax.data.builders.label_sets import ATR, CIHP
from omfa_jax.synthetic.random_poses import RandomPose
from omfa_jax.synthetic.world import RenderedPhoto, View
from omfa_jax.synthetic.world_folder import (
    SPLIT_STARTS,
    FolderLayout,
    WorldSettings,
    get_world,
    write_json,
    write_labels,
    write_missing_files,
    write_text,
)

UPPER, LOWER = "upper_body", "lower_body"
NUMBERS = {UPPER: 0, LOWER: 1}
TO_SHINS_M = 0.62
# BODY_25's rows in BODY_18's order
BODY_18_ROWS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
FROM_CIHP = {
    "hair": "hair",
    "upper": "upper",
    "pants": "pants",
    "torso_skin": "face",  # ATR labels the neck as face
    "face": "face",
    "left_arm": "left_arm",
    "right_arm": "right_arm",
}


@dataclass(frozen=True)
class DressCodePerson:
    """One person in a category's folder; `unpaired`: number of the garment to try on."""

    split: str
    folder: str
    index: int
    unpaired: int

    @property
    def photo_name(self) -> str:
        """The file name of the photo."""
        return f"{self.index:06d}_0.jpg"


def list_people(split: str, count: int, settings: WorldSettings) -> list[DressCodePerson]:
    """Return the people of a split; the unpaired garment is that of the category's next person."""
    start = SPLIT_STARTS[split]
    found = []
    for folder in (UPPER, LOWER):
        # by number, so that people keep their category when the data set is extended
        members = [i for i in range(start, start + count) if (i % 3 == 2) == (folder == LOWER)]
        # a cycle, so that nobody gets their own garment
        nexts = members[1:] + members[:1]
        found += [
            DressCodePerson(split, folder, *pair) for pair in zip(members, nexts, strict=True)
        ]
    return sorted(found, key=lambda job: job.index)


def extend_to_shins(view: View) -> View:
    """Return the view from further away, which shows the trousers down to their end."""
    return dataclasses.replace(view, below_hips_m=TO_SHINS_M)


def relabel(
    parse: UInt8[np.ndarray, "h w"], names: Mapping[str, str], ids: Mapping[str, int]
) -> UInt8[np.ndarray, "h w"]:
    """Return a CIHP map of the world in another label set; labels not in `names` are background."""
    table = np.zeros(256, np.uint8)
    for ours, theirs in names.items():
        table[CIHP.ids[ours]] = ids[theirs]
    return table[parse]


def write_person(root: AnyPath, settings: WorldSettings, job: DressCodePerson) -> bool:
    """Write the missing files of one person; return whether any was missing."""
    folder, number = root / job.folder, f"{job.index:06d}"

    def photo(pose: RandomPose | None = None) -> RenderedPhoto:
        world, i = get_world(settings), job.index
        view = world.get_view(i) if job.folder == UPPER else extend_to_shins(world.get_view(i))
        return world.render_photo(
            world.get_person(i), world.get_garment(i), pose or world.get_pose(i), view
        )

    def garment() -> np.ndarray:
        if job.folder == UPPER:
            world = get_world(settings)
            return world.render_garment(world.get_garment(job.index))[0]
        # the rest pose: arms away from the body cover no trousers
        standing = photo(RandomPose(-1, np.zeros((55, 3), np.float32)))
        worn = cut_out_garment(standing.image, standing.parse, CIHP, "lower")
        if worn is None:
            raise OmfaError(f"{number}: no trousers in the image; increase --height and --width")
        return worn

    person_files = {
        "images": folder / "images" / job.photo_name,
        "label_maps": folder / "label_maps" / f"{number}_4.png",
        "keypoints": folder / "keypoints" / f"{number}_2.json",
        "smplx": folder / "smplx" / f"{number}_0.npz",
    }
    garment_files = {"garment": folder / "images" / f"{number}_1.jpg"}
    wrote = write_missing_files(garment_files, garment, _WRITERS)
    return write_missing_files(person_files, photo, _WRITERS) or wrote


def write_lists(
    root: AnyPath, settings: WorldSettings, people: Mapping[str, Sequence[DressCodePerson]]
) -> None:
    """Write the lists of pairs: one per category folder, and one of all categories in the root."""
    for split, members in people.items():
        kinds = ("",) if split == "train" else ("_paired", "_unpaired")
        for kind in kinds:
            name, everything = f"{split}_pairs{kind}.txt", []
            for folder in (UPPER, LOWER):
                chosen = [job for job in members if job.folder == folder]
                pairs = [(job.photo_name, _garment_name(job, kind)) for job in chosen]
                everything += [f"{a}\t{b}\t{NUMBERS[folder]}\n" for a, b in pairs]
                if pairs:
                    write_text(root / folder / name, "".join(f"{a} {b}\n" for a, b in pairs))
            write_text(root / name, "".join(everything))


def write_keypoints(path: AnyPath, photo: RenderedPhoto) -> None:
    """Write BODY_18 rows (x, y, score, row) in DressCode's frame of 384x512 px; -1 if missing."""
    write_json(path, {"keypoints": _rows(photo).tolist()})


def _rows(photo: RenderedPhoto) -> Float32[np.ndarray, "18 4"]:
    height, width = photo.parse.shape
    picked = photo.keypoints[list(BODY_18_ROWS)]
    scale = np.divide(DRESSCODE_FRAME_PX, (width, height))
    places = np.arange(len(picked))[:, None]
    rows = np.concatenate([picked[:, :2] * scale, picked[:, 2:], places], axis=1)
    # a missing point has no row number either
    rows[picked[:, 2] == 0] = (-1, -1, 0, -1)
    return rows.round(3).astype(np.float32)


def _garment_name(job: DressCodePerson, kind: str) -> str:
    return f"{job.unpaired if kind == '_unpaired' else job.index:06d}_1.jpg"


_WRITERS: dict[str, Callable[[AnyPath, Any], None]] = {
    "garment": write_image,
    "images": lambda path, photo: write_image(path, photo.image),
    "label_maps": lambda path, photo: write_labels(path, relabel(photo.parse, FROM_CIHP, ATR.ids)),
    "keypoints": write_keypoints,
    "smplx": lambda path, photo: save_body(path, photo.params, photo.camera, source="exact"),
}

LAYOUT = FolderLayout(list_people, write_person, write_lists)
