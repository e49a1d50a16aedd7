"""What the serving script asks this package for: the face and the pose map of a person's photo."""

import os

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.images import from_signed
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.person_inputs import load_person
from omfa_jax.sampling.pose_sources import draw_body

Image = UInt8[np.ndarray, "h w 3"]


def draw_photo_person(
    settings: DiffusionSettings, task: str, photo: str | os.PathLike, *, has_face: bool
) -> tuple[Image | None, Image | None]:
    """Return the face of a photo at the slot's size, and the pose map in the photo's frame.

    The face is None with `has_face`, the map if no person is found
    and the task needs no face. Raises OmfaError as `load_person` does.
    """
    generates = any(row.name == task and "person" in row.noised for row in settings.tasks)
    face_use = "unused" if has_face else "required" if generates else "optional"
    slots = SlotFitter(settings)
    me = load_person(slots, photo, face_use=face_use)
    face = None if me.face is None else from_signed(me.face)[0]
    if me.body is None:
        return face, None
    pose = draw_body(me.body.bodies[0], me.body.camera, slots.pose_style, me.body.model)
    return face, pose
