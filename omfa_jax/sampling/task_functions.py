"""The tasks as functions: try_on, try_off, and the compound tasks transfer and turntable."""

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.core.images import to_signed
from omfa_jax.sampling.sampler import Sampler

Signed = Float[np.ndarray, "b h w 3"]
Pictures = UInt8[np.ndarray, "b h w 3"]


def try_on(
    sampler: Sampler, garment: Signed, face: Signed, pose: Signed | None, *, seed: int = 0
) -> Pictures:
    """Return photos of people with the given faces, in the given poses, wearing the garments."""
    return sampler("try_on", {"garment": garment, "face": face}, pose, seed=seed)["person"]


def try_off(
    sampler: Sampler, person: Signed, face: Signed, pose: Signed | None, *, seed: int = 0
) -> Pictures:
    """Return in-shop photos of the garments that the people wear."""
    return sampler("try_off", {"person": person, "face": face}, pose, seed=seed)["garment"]


def transfer(
    sampler: Sampler,
    source_person: Signed,
    source_face: Signed,
    source_pose: Signed | None,
    face: Signed,
    pose: Signed | None,
    *,
    seed: int = 0,
) -> tuple[Pictures, Pictures]:
    """Take the garment off the source people and put it on the target faces in the target poses.

    Returns (garments, people).
    """
    garments = try_off(sampler, source_person, source_face, source_pose, seed=seed)
    return garments, try_on(sampler, to_signed(garments), face, pose, seed=seed)


def turntable(
    sampler: Sampler, garment: Signed, face: Signed, poses: Signed, *, seed: int = 0
) -> Pictures:
    """Return one garment on one person in every pose of `poses`, a turn of the body.

    `garment` and `face` hold one image each. Every view starts from the same noise.
    """
    # one view at a time: the program of a batch of one is reused, and memory does not grow
    frames = [
        try_on(sampler, garment, face, poses[index : index + 1], seed=seed)
        for index in range(len(poses))
    ]
    return np.concatenate(frames)
