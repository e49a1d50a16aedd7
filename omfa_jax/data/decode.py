"""From records to examples and batches: pictures decoded and fitted into their slots, latents."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data import augment, faces, schema
from omfa_jax.data.mirror import mirror_pose
from omfa_jax.data.moments import moments_to_latents
from omfa_jax.data.room import Rooms

Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]
# an example whose pictures are not copied out of Pillow's memory yet
Fitted = dict[str, np.ndarray | np.generic | Image.Image]
Slots = Mapping[str, tuple[int, int]]

# A picture that is not there: white paper for a garment or face, black (nobody) for a pose map
WHITE, BLACK = 255, 0
# from this size on numpy asks for huge pages: a batch of latents in small ones costs as much in
# page faults as in copying
HUGE_BYTES = 2**22
ALIGN_BYTES = 64
STILL = augment.Augmentation()


def check_slots(slots: Slots) -> None:
    """Raise an OmfaError unless every component has a (height, width) of at least 1 px."""
    for name in slots:
        if name not in COMPONENTS:
            raise unknown("component in slots", name, COMPONENTS)
    for name in COMPONENTS:
        size = slots.get(name)
        if size is None or len(size) != 2 or min(size) < 1:
            raise OmfaError(f"slots: expected (height_px, width_px) for {name!r}, got {size}")


def decode_record(record: schema.Record, slots: Slots, **changes: Any) -> Example:
    """Return what `fitted_record` does, with every picture as an array."""
    return pixels(fitted_record(record, slots, **changes))


def fitted_record(
    record: schema.Record,
    slots: Slots,
    *,
    garment_of: schema.Record | None = None,
    change: augment.Augmentation = STILL,
    pose_style: str = "",
    unpaired: bool = False,
) -> Fitted:
    """Return one record's pictures at the slot sizes, RGB, and has_pose.

    The face is the record's face box; white where no face was found. `garment_of` is the record
    that garment and face are taken from, if it is another. `change` moves person and pose map as
    one and mirrors and colours everything alike, the pose map by its style (see mirror.py); the
    face is cut out before the photo moves.
    """
    if unpaired and not record.unpaired_garment:
        raise OmfaError(f"record {record.split}/{record.key} has no unpaired garment")
    worn = garment_of or record
    person = images.open_rgb(record.person, f"person of {record.key}")
    encoded = record.unpaired_garment if unpaired else worn.garment
    garment = images.open_rgb(encoded, f"garment of {worn.key}")
    face = None
    if worn.has_face:
        wearer = person
        if worn is not record:
            wearer = images.open_rgb(worn.person, f"person of {worn.key}")
        face = faces.cut_face(wearer, worn.face_box_px)
    pose = None
    if record.has_pose:
        pose = images.open_rgb(record.pose, f"pose map of {record.key}")
        if change.flip:
            pose = Image.fromarray(mirror_pose(np.asarray(pose), pose_style))
    return {
        "garment": _photo(garment, slots["garment"], change, change.garment),
        "person": _photo(person, slots["person"], change, change.person),
        "face": _photo(face, slots["face"], change, augment.Move()),
        "pose": _placed(pose, slots["person"], BLACK, change.person),
        "has_pose": np.bool_(record.has_pose),
    }


def decode_latents(
    record: schema.LatentRecord,
    shapes: Mapping[str, Sequence[int]],
    *,
    garment_of: schema.LatentRecord | None = None,
    rng: np.random.Generator | None = None,
) -> Example:
    """Return one latent record's arrays (h, w, c), float16, and has_pose (else zero latents).

    With `rng` they are drawn from the VAE's posterior, where its deviation is stored; else they are
    its mean. They stay float16 until they are on the device: half of the bytes to copy and send.
    """
    decoded: Example = {"has_pose": np.bool_(record.has_pose)}
    for name, shape in shapes.items():
        worn = garment_of is not None and name in ("garment", "face")
        encoded = getattr(garment_of if worn else record, name)
        decoded[f"{name}_latents"] = moments_to_latents(encoded, shape, rng)
    return decoded


def check_latents(folder: str, slots: Slots, vae_id: str, written: Mapping[str, object]) -> None:
    """Raise an OmfaError if latents were made by another VAE or at other sizes than asked."""
    asked = {name: list(slots[name]) for name in COMPONENTS}
    for what, came, wanted in (
        ("VAE", written["vae_id"], vae_id),
        ("slots", written["slots"], asked),
    ):
        if came != wanted:
            raise OmfaError(
                f"{folder}: latents were written for {what} {came}, "
                f"asked for {wanted}; run `omfa data latents` again"
            )


def pixels(fitted: Fitted) -> Example:
    """Return an example with its pictures as arrays."""
    return {n: np.asarray(v) if isinstance(v, Image.Image) else v for n, v in fitted.items()}


def stacked(rows: Iterable[Mapping[str, Any]], count: int, rooms: Rooms | None = None) -> Batch:
    """Return `count` examples as one batch, every value as it is, in memory that `rooms` lend.

    Each row is put in its place before the next is made: what it was made from is free by then, and
    its memory, still in the cache, serves the next one.
    """
    batch: Batch = {}
    for number, row in enumerate(rows):
        batch = batch or _allocated(row, count, rooms or Rooms())
        for name, value in row.items():
            if isinstance(value, Image.Image):
                images.copy_pixels(value, batch[name][number])
            else:
                batch[name][number] = value
    return {n: v.astype(np.str_) if v.dtype == object else v for n, v in batch.items()}


def _allocated(row: Mapping[str, Any], count: int, rooms: Rooms) -> Batch:
    """Return room for `count` such rows, all in one piece: texts as objects, of any length."""
    kinds, shapes, sizes = {}, {}, {}
    for name, value in row.items():
        picture = isinstance(value, Image.Image)
        kind, shape = (np.dtype(np.uint8), (*value.size[::-1], 3)) if picture else _form(value)
        kinds[name], shapes[name] = kind, (count, *shape)
        sizes[name] = math.prod(shapes[name]) * kind.itemsize
    room = rooms.lend(max(HUGE_BYTES, sum(size + ALIGN_BYTES for size in sizes.values())))
    batch, start = {}, 0
    for name, shape in shapes.items():
        if kinds[name].kind == "O":
            batch[name] = np.empty(shape, object)
            continue
        batch[name] = room[start : start + sizes[name]].view(kinds[name]).reshape(shape)
        start += -(-sizes[name] // ALIGN_BYTES) * ALIGN_BYTES
    return batch


def _form(value: np.ndarray | np.generic) -> tuple[np.dtype, tuple[int, ...]]:
    return np.dtype(object) if value.dtype.kind == "U" else value.dtype, value.shape


def signed(batch: Batch) -> Batch:
    """Return the batch with its pictures as float32 in [-1, 1] and its latents as float32.

    Everything is a copy: a view of some facts would hold the memory of all the pictures.
    """
    ways = {np.dtype(np.uint8): images.to_signed, np.dtype("<f2"): np.float32}
    return {name: ways.get(value.dtype, np.array)(value) for name, value in batch.items()}


def _photo(
    picture: Image.Image | None,
    slot: tuple[int, int],
    change: augment.Augmentation,
    move: augment.Move,
) -> Image.Image:
    if picture is not None and change != STILL:
        pixels = augment.recoloured(np.asarray(picture), change)
        pixels = np.ascontiguousarray(pixels[:, ::-1]) if change.flip else pixels
        picture = Image.fromarray(pixels)
    return _placed(picture, slot, WHITE, move)


def _placed(
    picture: Image.Image | None, slot: tuple[int, int], fill: int, move: augment.Move
) -> Image.Image:
    if picture is None:
        height_px, width_px = slot
        return Image.new("RGB", (width_px, height_px), (fill, fill, fill))
    if move == augment.Move():
        return images.letterboxed(picture, *slot, fill)
    return Image.fromarray(augment.moved(np.asarray(picture), slot, fill, move))
