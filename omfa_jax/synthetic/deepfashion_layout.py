"""Write a synthetic data set in DeepFashion-MultiModal's layout.

Each person has two outfits, each in three poses. One of the three photos shows the person down to
the shins and has a label map, as in the real set, where only full-body photos have one. Every fifth
outfit is labelled as trousers. The landmarks of crown, chin and armpits are absent; densepose/ and
labels/ are not written. The layout has no splits: the three counts are added up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from omfa_jax.body.body_file import save_body
from omfa_jax.core.images import write_image
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders.label_sets import DEEPFASHION
from omfa_jax.data.builders.landmark_files import LANDMARKS, LOCATIONS_FILE, VISIBILITY_FILE
from omfa_jax.synthetic.dresscode_layout import extend_to_shins, relabel
from omfa_jax.synthetic.garments import Garment
from omfa_jax.synthetic.people import Person
from omfa_jax.synthetic.random_poses import RandomPose
from omfa_jax.synthetic.world import View
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

# with the numbers that the real set gives to these views
VIEWS = ("4_full", "1_front", "7_additional")
# every fifth outfit, so that the file name and not the largest garment decides what is cut out
SOLD_AS_TROUSERS = 5
WOMEN_STYLES = ("bob", "long")
# BODY_25's rows
ROWS = {
    **{"nose": 0, "right_shoulder": 2, "right_elbow": 3, "right_wrist": 4, "left_shoulder": 5},
    **{"left_elbow": 6, "left_wrist": 7, "right_hip": 9, "right_knee": 10, "right_ankle": 11},
    **{"left_hip": 12, "left_knee": 13, "left_ankle": 14, "right_eye": 15, "left_eye": 16},
    **{"right_ear": 17, "left_ear": 18},
}
FROM_CIHP = {
    "hair": "hair",
    "upper": "top",
    "pants": "pants",
    "torso_skin": "skin",
    "face": "face",
    "left_arm": "skin",
    "right_arm": "skin",
}


@dataclass(frozen=True)
class DeepFashionPhoto:
    """One photo: person outfit // 2 in garment `outfit` and pose `pose`, in the view `view`."""

    outfit: int
    pose: int
    view: str
    stem: str

    @property
    def person(self) -> int:
        """The number of the person."""
        return self.outfit // 2


def list_photos(split: str, count: int, settings: WorldSettings) -> list[DeepFashionPhoto]:
    """Return the photos of a split, group by group."""
    start, world = SPLIT_STARTS[split], get_world(settings)
    found = []
    for k in range(count):
        outfit, view = start + k // len(VIEWS), VIEWS[k % len(VIEWS)]
        person = world.get_person(outfit // 2)
        gender = "WOMEN" if person.hair_style in WOMEN_STYLES else "MEN"
        word = "Sweaters" if world.get_garment(outfit).sleeve == "long" else "Tees_Tanks"
        if outfit % SOLD_AS_TROUSERS == SOLD_AS_TROUSERS - 1:
            word = "Pants"
        stem = f"{gender}-{word}-id_{person.index:08d}-{outfit % 2 + 1:02d}_{view}"
        found.append(DeepFashionPhoto(outfit, start + k, view, stem))
    return found


def write_photo(root: AnyPath, settings: WorldSettings, job: DeepFashionPhoto) -> bool:
    """Write the missing files of one photo; return whether any was missing."""
    files = {
        "images": root / "images" / f"{job.stem}.jpg",
        "smplx": root / "smplx" / f"{job.stem}.npz",
    }
    if job.view == VIEWS[0]:
        files["segm"] = root / "segm" / f"{job.stem}_segm.png"
    return write_missing_files(
        files, lambda: get_world(settings).render_photo(*_members(settings, job)), _WRITERS
    )


def write_lists(
    root: AnyPath, settings: WorldSettings, photos: Mapping[str, Sequence[DeepFashionPhoto]]
) -> None:
    """Write captions.json and the two landmark files."""
    captions, places, flags = {}, [], []
    for job in (job for members in photos.values() for job in members):
        name = f"{job.stem}.jpg"
        captions[name] = make_caption(settings, job)
        rows = make_landmarks(get_world(settings).compute_keypoints(*_members(settings, job)))
        points = " ".join(f"{value:.0f}" for value in rows[:, :2].ravel())
        places.append(f"{name} {points}\n")
        # 0 is visible and 2 absent, see CONFIDENCES in landmark_files.py
        flags.append(f"{name} {' '.join('0' if seen else '2' for seen in rows[:, 2])}\n")
    write_json(root / "captions.json", captions)
    write_text(root / "keypoints" / LOCATIONS_FILE, "".join(places))
    write_text(root / "keypoints" / VISIBILITY_FILE, "".join(flags))


def make_landmarks(keypoints: Float32[np.ndarray, "25 3"]) -> Float32[np.ndarray, "21 3"]:
    """Return (x px, y px, confidence) rows in the order of LANDMARKS; (-1, -1, 0) if absent."""
    found = np.tile(np.array([-1, -1, 0], np.float32), (len(LANDMARKS), 1))
    for name, row in ROWS.items():
        if keypoints[row, 2]:
            found[LANDMARKS.index(name)] = keypoints[row]
    return found


def make_caption(settings: WorldSettings, job: DeepFashionPhoto) -> str:
    """Return a caption of the photo, in one sentence."""
    world = get_world(settings)
    person, garment = world.get_person(job.person), world.get_garment(job.outfit)
    printed = " with a chest print" if garment.print_rgb is not None else ""
    sleeves = "no" if garment.sleeve == "sleeveless" else f"{garment.sleeve}"
    return (
        f"A person with {person.hair_style} hair wears a {garment.pattern} top with {sleeves}"
        f" sleeves and a {garment.neck} neck{printed}, and plain trousers."
    )


def _members(
    settings: WorldSettings, job: DeepFashionPhoto
) -> tuple[Person, Garment, RandomPose, View]:
    world = get_world(settings)
    view = world.get_view(job.outfit)
    if job.view == VIEWS[0]:
        view = extend_to_shins(view)
    return (
        world.get_person(job.person),
        world.get_garment(job.outfit),
        world.get_pose(job.pose),
        view,
    )


_WRITERS: dict[str, Callable[[AnyPath, Any], None]] = {
    "images": lambda path, photo: write_image(path, photo.image),
    "segm": lambda path, photo: write_labels(
        path, relabel(photo.parse, FROM_CIHP, DEEPFASHION.ids)
    ),
    "smplx": lambda path, photo: save_body(path, photo.params, photo.camera, source="exact"),
}

LAYOUT = FolderLayout(list_photos, write_photo, write_lists)
