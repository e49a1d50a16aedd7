"""How often photos get the warnings that they deserve: a worn garment, and a face that is not seen.

    PYTHONPATH=. python bench/photo_warnings.py [--count 60] [--samples VITON-HD/test]

Synthetic garments alone, and synthetic people as seen from all sides, by the seed; with `--samples`
also the photos in image/ (people whose face is seen) and cloth/ of a folder. Each row has the
values that decide, beside their threshold.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from omfa_jax.body.landmarks import PersonLandmarks, find_people
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.core.images import read_rgb
from omfa_jax.sampling.photo_people import (
    MIN_VISIBLE,
    MIN_WORN,
    measure_face,
    measure_worn,
)
from omfa_jax.synthetic.world import World

SEED, HEIGHT_PX, WIDTH_PX = 7, 512, 384
# from the front, turned aside so that one half of the face is seen, and from behind
FACING_DEG, ASIDE_DEG, BEHIND_DEG = (-35, 35), (60, 90), (150, 210)


@dataclass
class Row:
    """Photos of one kind; None is a photo in which nobody is found."""

    name: str
    worn_deserved: bool
    face_seen: bool | None
    found: list[PersonLandmarks | None] = field(default_factory=list)

    def format(self) -> str:
        """Return the row of the table."""
        people = [person for person in self.found if person is not None]
        worn = np.array([0.0 if p is None else measure_worn(p) for p in self.found])
        warned = int((worn >= MIN_WORN).sum())
        edge = f"{worn.min():.2f} lowest" if self.worn_deserved else f"{worn.max():.2f} highest"
        cells = [f"{len(people)}", f"{warned} ({edge})"]
        faces = np.array([measure_face(person) for person in people])
        unseen = int((faces < MIN_VISIBLE).sum())
        if self.face_seen is None or not len(faces):
            cells.append(f"{unseen}")
        else:
            edge = f"{faces.min():.2f} lowest" if self.face_seen else f"{faces.max():.2f} highest"
            cells.append(f"{unseen} ({edge})")
        return f"| {self.name} | {len(self.found)} | {' | '.join(cells)} |"


def find_largest(photo: np.ndarray) -> PersonLandmarks | None:
    return next(iter(find_people(photo)), None)


def turn(world: World, index: int, yaw_deg: tuple[float, float]) -> np.ndarray:
    """Return a photo of a synthetic person whose body is turned by an angle of that range."""
    pose = world.get_pose(index)
    yaw = np.radians(np.random.default_rng([SEED, index]).uniform(*yaw_deg))
    turned = pose.rotations.copy()
    turned[JOINT_INDEX["pelvis"]] = (0, yaw, 0)
    return world.render_photo(
        world.get_person(index),
        world.get_garment(index),
        replace(pose, rotations=turned),
        world.get_view(index),
    ).image


def make_rows(count: int, samples: Path | None) -> Iterator[Row]:
    world = World(SEED, HEIGHT_PX, WIDTH_PX)
    garments = (world.render_garment(world.get_garment(i))[0] for i in range(count))
    kinds = (
        ("synthetic garments alone", False, None, garments),
        (
            "synthetic people, facing",
            True,
            True,
            (turn(world, i, FACING_DEG) for i in range(count)),
        ),
        ("the same, in profile", True, None, (turn(world, i, ASIDE_DEG) for i in range(count))),
        ("the same, from behind", True, False, (turn(world, i, BEHIND_DEG) for i in range(count))),
    )
    for name, worn, seen, photos in kinds:
        yield Row(name, worn, seen, [find_largest(photo) for photo in photos])
    if samples is not None:
        for name, folder, worn in (
            ("real garments", "cloth", False),
            ("real people", "image", True),
        ):
            paths = sorted((samples / folder).glob("*.jpg"))
            photos = (read_rgb(path, "photo") for path in paths)
            yield Row(name, worn, True if worn else None, [find_largest(photo) for photo in photos])


def print_rates(count: int, samples: Path | None) -> None:
    """Print the table."""
    print(f"| photos | number | with a person | said to be worn (from {MIN_WORN:g}) |", end=" ")
    print(f"face not seen (below {MIN_VISIBLE:g}) |\n| --- | --- | --- | --- | --- |")
    for row in make_rows(count, samples):
        print(row.format(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="synthetic photos of each kind")
    parser.add_argument("--samples", type=Path, help="folder with image/ and cloth/")
    args = parser.parse_args()
    print_rates(args.count, args.samples)


if __name__ == "__main__":
    main()
