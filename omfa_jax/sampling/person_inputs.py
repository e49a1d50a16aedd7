"""A person's images at a model's slot sizes, and the way back into their photo."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_box import BodyBox, find_keypoint_box
from omfa_jax.body.keypoints.keypoint_reader import PhotoKeypoints
from omfa_jax.body.landmarks import PersonLandmarks
from omfa_jax.core.errors import OmfaError
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.image_like import ImageLike, read_image_like
from omfa_jax.sampling.photo_files import (
    WHITE,
    PathLike,
    PersonFiles,
    find_face,
    find_files_beside,
    read_photo_keypoints,
)
from omfa_jax.sampling.photo_frame import PhotoFrame, choose_crop, format_size, have_one_aspect
from omfa_jax.sampling.photo_people import (
    find_photo_person,
    fit_file_body,
    fit_photo_body,
    make_photo_rows,
)
from omfa_jax.sampling.pose_sources import PosedBodies, PoseSource, read_pose
from omfa_jax.sampling.posed_people import find_pose_kind, pose_own_body

log = logging.getLogger(__name__)

# without a pose nobody knows where in the slot the model puts a person: what of the slot is cut
# off to get the photo's aspect must not be their head, so at most this much of its height
MAX_CUT = 0.05

# without a face a task stops, takes a white one as in training, or does not use any
FaceUse = Literal["required", "optional", "unused"]
Photo = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, eq=False)
class PersonInputs:
    """A person's photo, face and pose maps in the model's slots, float32 in [-1, 1].

    `person` (1, h, w, 3) and `face` (1, h, w, 3) are None where not asked for; `pose` (views, h, w,
    3) is None for the null pose. `frame` is where the person's slot lies in `photo` (height, width,
    3), uint8; None if that is unknown. `body` is what the pose was drawn from,
    None for a pose map.

        me = omfa.load_person(omfa.SlotFitter(model.settings), "me.jpg", pose="me.npz")
        images = me.restore(omfa.try_on(sampler, "shirt.jpg", me.face, me.pose))
    """

    photo: Photo | None
    person: Float[np.ndarray, "1 h w 3"] | None
    face: Float[np.ndarray, "1 h w 3"] | None
    pose: Float[np.ndarray, "views h w 3"] | None
    frame: PhotoFrame | None
    body: PosedBodies | None = None

    def restore(
        self, people: UInt8[np.ndarray, "b h w 3"]
    ) -> UInt8[np.ndarray, "b height width 3"]:
        """Return generated people in the photo's frame, at its size.

        The margins of the letter box are cut off; if the photo was cropped to the person, the
        result is pasted back. People of an unknown frame keep the slot's size.
        """
        if self.frame is None:
            return people
        return np.stack([self.frame.restore(image, self.photo) for image in people])


def load_person(
    slots: SlotFitter,
    photo: ImageLike | None,
    *,
    face: ImageLike | None = None,
    pose: PathLike | None = None,
    keypoints: PathLike | None = None,
    parse: PathLike | None = None,
    person_index: int | None = None,
    smplx_model: str | None = None,
    crop: bool = True,
    null_pose: bool = False,
    face_use: FaceUse = "required",
) -> PersonInputs:
    """Return a person's photo, face and pose at a model's slot sizes, as `omfa sample` reads them.

    The face is `face`, or cropped from the photo with 2D keypoints (of `person_index`, if they
    show several people, else of the largest) or a parse map. The pose is a pose map, a body (.npz),
    the name of a library pose, or another photo, whose pose is put on this person's body; without
    one, it is that of the photo, a body fitted to the keypoints. If the photo is a path in a raw
    data set, what is not given is taken from beside it: smplx/NAME.npz, pose/NAME.png, keypoints
    and parse map. What is still missing is found in the photo itself. `null_pose` lets the model
    choose the pose. With `crop`, a photo in which the person would be small is cropped to them.

    Raises OmfaError if a file cannot be read, if pose_maps.json beside a pose map says another
    style than the model's, if a required face is not found, and if the photo's body is rejected.

        me = omfa.load_person(omfa.SlotFitter(model.settings), "me.jpg")
        people = omfa.try_on(sampler, "shirt.jpg", me.face, me.pose)
        images = me.restore(people)  # at the photo's size
    """
    files = PersonFiles(photo, face, pose, keypoints, parse, person_index)
    files = find_files_beside(files, slots.pose_style, null_pose=null_pose)
    return read_person(slots, files, smplx_model=smplx_model, crop=crop, face_use=face_use)


def read_person(
    slots: SlotFitter,
    files: PersonFiles,
    *,
    smplx_model: str | None = None,
    crop: bool = True,
    as_input: bool = True,
    face_use: FaceUse = "required",
    views: int | None = None,
) -> PersonInputs:
    """Return the images of a person's files (see `load_person`).

    `as_input`: the model is given the photo itself. `views` is the number of views of a turn; it
    needs a body.
    """
    photo = None
    if files.photo is not None:
        photo = read_image_like(files.photo, f"person ({files.prefix}person)")
    given = files.pose is not None and not files.pose_beside
    kind = find_pose_kind(files.pose, f"{files.prefix}pose") if files.pose and given else None
    # of a person in a library pose or that of another photo the own body is needed
    needs_own = kind in ("name", "photo")
    own_files = files
    if needs_own:
        own_files = find_files_beside(replace(files, pose=None), slots.pose_style, needs_body=True)
    crops_face = files.face is None and face_use != "unused"
    found, rows, landmarks = None, None, None
    if photo is not None:
        if crops_face or own_files.fit_keypoints:
            found = read_photo_keypoints(files, *photo.shape[:2])
            rows = None if found is None else found.rows
        lacks_face = crops_face and rows is None and files.parse is None
        lacks_pose = rows is None and own_files.pose is None and not files.null_pose
        if lacks_face or lacks_pose:
            advice = _advise(files, lacks_face and face_use == "required", needs_own)
            landmarks = find_photo_person(photo, files.name, needed=advice)
            rows = None if landmarks is None else make_photo_rows(landmarks)
    # before a body is fitted, which takes longer
    face = None
    if files.face is not None and face_use != "unused":
        face = read_image_like(files.face, f"face ({files.prefix}face)")
    elif photo is not None and face_use != "unused":
        face = find_face(files, photo, rows, required=face_use == "required")
    source = _find_pose(slots, own_files, photo, found, landmarks, smplx_model)
    if needs_own:
        source = pose_own_body(slots.sizes["person"], files, kind == "name", source, smplx_model)
    if views is not None:
        if not isinstance(source, PosedBodies):
            raise OmfaError(
                f"a turn of the body needs SMPL-X parameters (.npz) as {files.prefix}pose, got"
                f" {files.pose or 'no body'}: an image cannot be turned"
            )
        source = source.turn(views)
    shown, placed = _choose_frames(slots, files, photo, source, rows, crop, as_input)
    drawn = None
    # a pose always says where the person is
    if source is not None and placed is not None:
        drawn = source.draw(placed, slots.pose_style)
    person = None
    if as_input and photo is not None and shown is not None:
        person = shown.fit(photo, WHITE)
    return PersonInputs(
        photo,
        person,
        None if face is None else slots.fit_image("face", face),
        drawn,
        placed,
        source if isinstance(source, PosedBodies) else None,
    )


def _find_pose(
    slots: SlotFitter,
    files: PersonFiles,
    photo: Photo | None,
    found: PhotoKeypoints | None,
    landmarks: PersonLandmarks | None,
    smplx_model: str | None,
) -> PoseSource | None:
    if files.pose is not None:
        return read_pose(files.pose, slots.pose_style, smplx_model, f"{files.prefix}pose")
    if landmarks is not None and not files.null_pose:
        instead = f"{files.prefix}pose FILE or --null-pose, which lets the model choose one"
        return fit_photo_body(landmarks, smplx_model, files.name, instead)
    body = None
    if files.fit_keypoints and photo is not None and found is not None:
        body = fit_file_body(files, found, photo, smplx_model)
    if body is None:
        whose = "no pose given" if files.photo is None else f"no pose for {files.name}"
        log.warning("%s: the model chooses one (null pose)", whose)
    return body


def _advise(files: PersonFiles, lacks_face: bool, needs_own: bool) -> str:
    """Return what to give where nobody is found in the photo, "" if the task can go on."""
    if lacks_face:
        return f"give {files.prefix}face IMAGE, and {files.prefix}pose FILE.npz or --null-pose"
    if needs_own:
        return f"give {files.prefix}pose FILE.npz with a body and its camera"
    return ""


def _choose_frames(
    slots: SlotFitter,
    files: PersonFiles,
    photo: Photo | None,
    source: PoseSource | None,
    rows: Float[np.ndarray, "25 3"] | None,
    crop: bool,
    as_input: bool,
) -> tuple[PhotoFrame | None, PhotoFrame | None]:
    """Return where the slot lies in the photo that is shown, and in that of a generated person."""
    slot_px = slots.sizes["person"]
    if photo is None:
        frame = None if source is None else PhotoFrame(source.size_px, slot_px)
        return frame, frame
    height, width = photo.shape[:2]
    whole = PhotoFrame((height, width), slot_px)
    if source is not None and not have_one_aspect(source.size_px, whole.photo_px):
        where = "does not match it" if as_input else "places the person in a frame of its own"
        log.warning(
            "%s is %s; its pose is of a photo of %s and %s",
            *(files.name, format_size(whole.photo_px), format_size(source.size_px), where),
        )
        return whole, PhotoFrame(source.size_px, slot_px)
    box = _find_box(source, rows, whole.photo_px)
    part = choose_crop(whole.photo_px, slot_px, box) if crop else None
    if part is not None:
        cropped = replace(whole, crop=part)
        log.info(
            "%s (%s): cropped to the %s around the person; --no-crop takes the whole photo",
            *(files.name, format_size(whole.photo_px), format_size(cropped.part_px)),
        )
        return cropped, cropped
    if source is None and width / height > (1 + MAX_CUT) * slot_px[1] / slot_px[0]:
        sized = f"the result has the model's size, {format_size(slot_px)}"
        effect = "all of it is letter-boxed, with a small person" if as_input else sized
        log.warning(
            "%s is wider than the model's images and no pose says where the person is: %s",
            *(files.name, effect),
        )
        return whole, None
    return whole, whole


def _find_box(
    source: PoseSource | None, rows: Float[np.ndarray, "25 3"] | None, photo_px: tuple[int, int]
) -> BodyBox | None:
    """Return the box of the body in the photo's pixels; None if nothing says where it is."""
    height, width = photo_px
    if source is None:
        return None if rows is None else find_keypoint_box(rows, width, height)
    box = source.find_box()
    if box is None:
        return None
    left, top, right, bottom = box
    # the pose may be of a scaled copy of the photo
    across, down = width / source.size_px[1], height / source.size_px[0]
    return left * across, top * down, right * across, bottom * down
