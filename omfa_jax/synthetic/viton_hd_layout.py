"""Write a synthetic data set in VITON-HD's layout, with body parameters and ground truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from omfa_jax.body.body_file import save_body
from omfa_jax.core.images import write_image
from omfa_jax.core.paths import AnyPath
from omfa_jax.synthetic.world import RenderedPhoto
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

# the splits that are scored: training uses no exact answers
TRUTH_SPLITS = ("val", "test")


@dataclass(frozen=True)
class VitonHDPerson:
    """One person of a split, wearing garment `index`; `unpaired`: the garment to try on."""

    split: str
    index: int
    unpaired: int

    @property
    def stem(self) -> str:
        """The file name without suffix, shared by the person's files."""
        return f"{self.index:05d}_00"

    @property
    def name(self) -> str:
        """The file name of the photo and of the person's own garment."""
        return f"{self.stem}.jpg"

    @property
    def second_column(self) -> str:
        """The garment in the pairs file: the person's own in train, the unpaired one elsewhere."""
        garment = self.unpaired if self.split in TRUTH_SPLITS else self.index
        return f"{garment:05d}_00.jpg"

    @property
    def truths(self) -> tuple[tuple[int, int, int], ...]:
        """(person, garment, pose) of the ground truth: the unpaired garment, and another pose."""
        if self.split not in TRUTH_SPLITS:
            return ()
        i = self.index
        truths = ((i, self.unpaired, i), (i, i, i + 1))
        # alone in a split, a person has no other garment to be rendered in
        return truths[1:] if self.unpaired == i else truths


def list_people(split: str, count: int, settings: WorldSettings) -> list[VitonHDPerson]:
    """Return the people of a split; the unpaired garments follow a random cycle through them."""
    start = SPLIT_STARTS[split]
    # a cycle through a random order: a person gets their own garment only if alone in the split
    order = np.random.default_rng([settings.seed, start, count]).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return [VitonHDPerson(split, start + i, start + int(partner[i])) for i in range(count)]


def write_person(root: AnyPath, settings: WorldSettings, job: VitonHDPerson) -> bool:
    """Write the missing files of one person; return whether any was missing."""
    folder, i = root / job.split, job.index

    def shop_photo() -> tuple[np.ndarray, np.ndarray]:
        world = get_world(settings)
        return world.render_garment(world.get_garment(i))

    def photo(person: int, garment: int, pose: int) -> RenderedPhoto:
        world = get_world(settings)
        members = world.get_person(person), world.get_garment(garment), world.get_pose(pose)
        return world.render_photo(*members, world.get_view(person))

    garment_files = {name: folder / name / job.name for name in ("cloth", "cloth-mask")}
    keypoints = {"openpose_json": folder / "openpose_json" / f"{job.stem}_keypoints.json"}
    person_files = _photo_files(folder, job.stem) | keypoints
    wrote = [
        write_missing_files(garment_files, shop_photo, _WRITERS),
        write_missing_files(person_files, lambda: photo(i, i, i), _WRITERS),
    ]
    for truth in job.truths:
        stem = "_".join(f"{number:05d}" for number in truth)
        wrote.append(
            write_missing_files(
                _photo_files(folder / "truth", stem), partial(photo, *truth), _WRITERS
            )
        )
    return any(wrote)


def write_lists(
    root: AnyPath, settings: WorldSettings, people: Mapping[str, Sequence[VitonHDPerson]]
) -> None:
    """Write the pairs file of every split."""
    for split, members in people.items():
        lines = [f"{job.name} {job.second_column}\n" for job in members]
        write_text(root / f"{split}_pairs.txt", "".join(lines))


def write_keypoints(path: AnyPath, keypoints: Float32[np.ndarray, "25 3"]) -> None:
    """Write the keypoints in OpenPose's JSON format (BODY_25, one person)."""
    values = [round(float(value), 3) for value in keypoints.ravel()]
    # -1 is OpenPose's id without tracking
    person = {"person_id": [-1], "pose_keypoints_2d": values}
    write_json(path, {"version": 1.3, "people": [person]})


def _photo_files(folder: AnyPath, stem: str) -> dict[str, AnyPath]:
    suffixes = {"smplx": ".npz", "image-parse-v3": ".png", "image": ".jpg"}
    return {name: folder / name / f"{stem}{suffix}" for name, suffix in suffixes.items()}


_WRITERS: dict[str, Callable[[AnyPath, Any], None]] = {
    "cloth": lambda path, rendered: write_image(path, rendered[0]),
    "cloth-mask": lambda path, rendered: write_image(path, rendered[1].astype(np.uint8) * 255),
    "image": lambda path, photo: write_image(path, photo.image),
    "image-parse-v3": lambda path, photo: write_labels(path, photo.parse),
    "openpose_json": lambda path, photo: write_keypoints(path, photo.keypoints),
    "smplx": lambda path, photo: save_body(path, photo.params, photo.camera, source="exact"),
}

LAYOUT = FolderLayout(list_people, write_person, write_lists)
