"""The tasks as functions: try_on, try_off, and the compound tasks transfer and turntable.

Inputs are float32 in [-1, 1], (batch, height, width, RGB), at the sizes of
`model.settings.slots_px`; `SlotFitter` makes them from files. A pose has the person's size; None is
the null pose, and the model chooses one. Results are uint8 at the same sizes.
"""

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.core.images import to_signed
from omfa_jax.sampling.sampler import Sampler

SignedImages = Float[np.ndarray, "b h w 3"]
Generated = UInt8[np.ndarray, "b h w 3"]


def try_on(
    sampler: Sampler,
    garment: SignedImages,
    face: SignedImages,
    pose: SignedImages | None,
    *,
    seed: int = 0,
) -> Generated:
    """Return photos of people with the given faces, in the given poses, wearing the garments.

    Arguments are float32 in [-1, 1]: `garment` (b, h, w, 3), `face` (b, h, w, 3) and `pose`
    (b, h, w, 3) or None, each at its slot size in pixels. Returns uint8 (b, h, w, 3) at the
    person's size. Example i starts from the same noise for any batch size; equal seeds give equal
    images. OmfaError if the batch sizes differ or the model has no task try_on.

        people = try_on(sampler, garment, face, pose, seed=1)
    """
    return sampler("try_on", {"garment": garment, "face": face}, pose, seed=seed)["person"]


def try_off(
    sampler: Sampler,
    person: SignedImages,
    face: SignedImages,
    pose: SignedImages | None,
    *,
    seed: int = 0,
) -> Generated:
    """Return in-shop photos of the garments that the people wear.

    Arguments are float32 in [-1, 1], (b, h, w, 3): `person`, `face` and `pose` (or None) at their
    slot sizes in pixels. Returns uint8 (b, h, w, 3) at the garment's size. OmfaError if the batch
    sizes differ or the model has no task try_off.

        garments = try_off(sampler, person, face, None)
    """
    return sampler("try_off", {"person": person, "face": face}, pose, seed=seed)["garment"]


def transfer(
    sampler: Sampler,
    source_person: SignedImages,
    source_face: SignedImages,
    source_pose: SignedImages | None,
    face: SignedImages,
    pose: SignedImages | None,
    *,
    seed: int = 0,
) -> tuple[Generated, Generated]:
    """Take the garment off the source people and put it on the target faces in the target poses.

    Images and poses are float32 in [-1, 1], (b, h, w, 3), at their slot sizes in pixels; a pose may
    be None. Returns (garments, people), uint8 (b, h, w, 3): what `try_off` returned, and the
    target people in it. OmfaError as in `try_on` and `try_off`.

        garments, people = transfer(sampler, source, source_face, None, face, pose)
    """
    garments = try_off(sampler, source_person, source_face, source_pose, seed=seed)
    return garments, try_on(sampler, to_signed(garments), face, pose, seed=seed)


def turntable(
    sampler: Sampler,
    garment: SignedImages,
    face: SignedImages,
    poses: SignedImages,
    *,
    seed: int = 0,
) -> Generated:
    """Return one garment on one person in every pose of `poses`, such as the views of a turn.

    `garment` and `face` are (1, h, w, 3) and `poses` is (views, h, w, 3), float32 in [-1, 1] at
    their slot sizes in pixels. Returns uint8 (views, h, w, 3). Every view starts from the same
    noise, so that views differ in the pose alone. OmfaError as in `try_on`.

        views = turntable(sampler, garment, face, np.concatenate(poses))
    """
    # one view at a time: the program of a batch of one is reused, and memory does not grow
    frames = [
        try_on(sampler, garment, face, poses[index : index + 1], seed=seed)
        for index in range(len(poses))
    ]
    return np.concatenate(frames)
