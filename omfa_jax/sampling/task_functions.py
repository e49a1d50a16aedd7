"""The tasks as functions: try_on, try_off, and the compound tasks transfer and turntable.

Inputs are images of any size and kind (see `image_like.ImagesLike`), letter-boxed into the model's
slots as `omfa sample` does it, or arrays that fill the slots: float32 in [-1, 1], (batch, height,
width, RGB), at the sizes of `model.settings.slots_px`. A pose may be a body file (.npz); None is
the null pose, and the model chooses one. Results are uint8 at the slots' sizes in pixels;
`load_person` returns inputs that know the way back into a photo's frame.
"""

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.core.images import to_signed
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.image_like import ImagesLike
from omfa_jax.sampling.sampler import Sampler

Generated = UInt8[np.ndarray, "b h w 3"]


def try_on(
    sampler: Sampler,
    garment: ImagesLike,
    face: ImagesLike,
    pose: ImagesLike | None,
    *,
    seed: int = 0,
) -> Generated:
    """Return photos of people with the given faces, in the given poses, wearing the garments.

    `garment`, `face` and `pose` are images of any size; `pose` may be a body (.npz) or None.
    Returns uint8 (b, h, w, 3) at the person's size. Example i starts from the same noise for any
    batch size; equal seeds give equal images. OmfaError if an image cannot be read, the batch
    sizes differ or the model has no task try_on.

        people = try_on(sampler, "shirt.jpg", "face.jpg", "me.npz", seed=1)
    """
    given = _fit(sampler, garment=garment, face=face)
    return sampler("try_on", given, _fit_pose(sampler, pose), seed=seed)["person"]


def try_off(
    sampler: Sampler,
    person: ImagesLike,
    face: ImagesLike,
    pose: ImagesLike | None,
    *,
    seed: int = 0,
) -> Generated:
    """Return in-shop photos of the garments that the people wear.

    `person`, `face` and `pose` (or None) are images of any size. Returns uint8 (b, h, w, 3) at
    the garment's size. OmfaError if an image cannot be read, the batch sizes differ or the model
    has no task try_off.

        garments = try_off(sampler, "me.jpg", "face.jpg", None)
    """
    given = _fit(sampler, person=person, face=face)
    return sampler("try_off", given, _fit_pose(sampler, pose), seed=seed)["garment"]


def transfer(
    sampler: Sampler,
    source_person: ImagesLike,
    source_face: ImagesLike,
    source_pose: ImagesLike | None,
    face: ImagesLike,
    pose: ImagesLike | None,
    *,
    seed: int = 0,
) -> tuple[Generated, Generated]:
    """Take the garment off the source people and put it on the target faces in the target poses.

    Images and poses are images of any size; a pose may be None. Returns (garments, people), uint8
    (b, h, w, 3): what `try_off` returned, and the target people in it. OmfaError as in `try_on` and
    `try_off`.

        garments, people = transfer(sampler, "you.jpg", "you_face.jpg", None, "face.jpg", "me.npz")
    """
    garments = try_off(sampler, source_person, source_face, source_pose, seed=seed)
    return garments, try_on(sampler, to_signed(garments), face, pose, seed=seed)


def turntable(
    sampler: Sampler,
    garment: ImagesLike,
    face: ImagesLike,
    poses: ImagesLike,
    *,
    seed: int = 0,
) -> Generated:
    """Return one garment on one person in every pose of `poses`, such as the views of a turn.

    `garment` and `face` are one image each and `poses` several, of any size. Returns uint8
    (views, h, w, 3) at the person's size. Every view starts from the same noise, so that views
    differ in the pose alone. OmfaError as in `try_on`.

        views = turntable(sampler, "shirt.jpg", "face.jpg", ["front.npz", "side.npz"])
    """
    given = _fit(sampler, garment=garment, face=face)
    turned = SlotFitter(sampler.model.settings).fit_images("pose", poses)
    # one view at a time: the program of a batch of one is reused, and memory does not grow
    frames = [
        sampler("try_on", given, turned[index : index + 1], seed=seed)["person"]
        for index in range(len(turned))
    ]
    return np.concatenate(frames)


def _fit(sampler: Sampler, **images: ImagesLike) -> dict[str, Float[np.ndarray, "b h w 3"]]:
    slots = SlotFitter(sampler.model.settings)
    return {name: slots.fit_images(name, given) for name, given in images.items()}


def _fit_pose(sampler: Sampler, pose: ImagesLike | None) -> Float[np.ndarray, "b h w 3"] | None:
    if pose is None:
        return None
    return SlotFitter(sampler.model.settings).fit_images("pose", pose)
