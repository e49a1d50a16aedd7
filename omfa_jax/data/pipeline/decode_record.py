"""Decode records to examples (images at slot sizes, or latents), and stack examples to batches."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline import augment
from omfa_jax.data.pipeline.batch import Batch
from omfa_jax.data.pipeline.buffer_pool import BufferPool
from omfa_jax.data.pipeline.pose_flip import flip_pose_map
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.face_crop import crop_face_image
from omfa_jax.data.records.latent_moments import unpack_latents

# one row of a batch
Example = dict[str, np.ndarray | np.generic]
# an example whose images are still in Pillow's memory: copied once, straight into the batch
PilExample = dict[str, np.ndarray | np.generic | Image.Image]
# component -> (height_px, width_px)
Slots = Mapping[str, tuple[int, int]]

# fill of missing images and of letterbox bars: white for photos, black (no body) for pose maps
WHITE, BLACK = 255, 0
# numpy requests huge pages for arrays from this size on. With 4 KB pages, filling a batch of
# latents costs as much in page faults as in copying.
HUGE_BYTES = 2**22
ALIGN_BYTES = 64
NO_AUGMENTATION = augment.Augmentation()


def check_slots(slots: Slots) -> None:
    """Raise an OmfaError unless every component has a (height, width) of at least 1 px."""
    for name in slots:
        if name not in COMPONENTS:
            raise make_unknown_name_error("component in slots", name, COMPONENTS)
    for name in COMPONENTS:
        size = slots.get(name)
        if size is None or len(size) != 2 or min(size) < 1:
            raise OmfaError(f"slots: expected (height_px, width_px) for {name!r}, got {size}")


def decode_record(record: record_schema.Record, slots: Slots, **changes: Any) -> Example:
    """Return the example of `decode_to_pil` with its images as arrays."""
    return convert_to_arrays(decode_to_pil(record, slots, **changes))


def decode_to_pil(
    record: record_schema.Record,
    slots: Slots,
    *,
    garment_of: record_schema.Record | None = None,
    change: augment.Augmentation = NO_AUGMENTATION,
    pose_style: str = "",
    unpaired: bool = False,
) -> PilExample:
    """Return one record's RGB images at the slot sizes, and has_pose.

    The face is the crop of the record's face box, white without one. `garment_of`: another record
    to take garment and face from. `change`: the augmentation; person and pose map move together,
    flip and colour apply to all images (the pose map is flipped by its style, see `pose_flip.py`).
    `unpaired`: return the garment that the person does not wear.
    """
    if unpaired and not record.unpaired_garment:
        raise OmfaError(f"record {record.split}/{record.key} has no unpaired garment")
    # in a multi-pose pair, garment and face are the partner's, person and pose the record's
    worn = garment_of or record
    person = images.open_rgb(record.person, f"person of {record.key}")
    encoded = record.unpaired_garment if unpaired else worn.garment
    if not encoded:
        raise OmfaError(
            f"record {worn.split}/{worn.key} has no garment of its own, which this needs; only"
            " --setting unpaired does without"
        )
    garment = images.open_rgb(encoded, f"garment of {worn.key}")
    face = None
    if worn.has_face:
        wearer = person
        if worn is not record:
            wearer = images.open_rgb(worn.person, f"person of {worn.key}")
        # before augmentation: the crop stays complete where the moved photo loses part of the face
        face = crop_face_image(wearer, worn.face_box_px)
    pose = None
    if record.has_pose:
        pose = images.open_rgb(record.pose, f"pose map of {record.key}")
        if change.flip:
            pose = Image.fromarray(flip_pose_map(np.asarray(pose), pose_style))
    return {
        "garment": _augment_photo(garment, slots["garment"], change, change.garment),
        "person": _augment_photo(person, slots["person"], change, change.person),
        "face": _augment_photo(face, slots["face"], change, augment.Move()),
        "pose": _fit_into_slot(pose, slots["person"], BLACK, change.person),
        "has_pose": np.bool_(record.has_pose),
    }


def decode_latents(
    record: record_schema.LatentRecord,
    shapes: Mapping[str, Sequence[int]],
    *,
    garment_of: record_schema.LatentRecord | None = None,
    rng: np.random.Generator | None = None,
) -> Example:
    """Return one record's latents (h, w, c), float16, and has_pose (without a pose: zeros).

    With `rng` they are sampled from the VAE's posterior if its standard deviation is stored;
    otherwise they are its mean. float16 until they are on the device: half the bytes to transfer.
    """
    decoded: Example = {"has_pose": np.bool_(record.has_pose)}
    for name, shape in shapes.items():
        worn = garment_of is not None and name in ("garment", "face")
        encoded = getattr(garment_of if worn else record, name)
        decoded[f"{name}_latents"] = unpack_latents(encoded, shape, rng)
    return decoded


def check_latents(folder: str, slots: Slots, vae_id: str, written: Mapping[str, object]) -> None:
    """Raise an OmfaError if the latents were made by another VAE or at other sizes."""
    asked = {name: list(slots[name]) for name in COMPONENTS}
    for what, came, wanted in (
        ("VAE", written["vae_id"], vae_id),
        ("slots", written["slots"], asked),
    ):
        if came != wanted:
            raise OmfaError(
                f"{folder}: expected latents of {what} {wanted}, found {came}; run"
                " `omfa data latents` again"
            )


def convert_to_arrays(fitted: PilExample) -> Example:
    """Return the example with its images as arrays."""
    return {n: np.asarray(v) if isinstance(v, Image.Image) else v for n, v in fitted.items()}


def stack_examples(
    rows: Iterable[Mapping[str, Any]], count: int, pool: BufferPool | None = None
) -> Batch:
    """Return `count` examples as one batch, dtypes unchanged, in a buffer of `pool`.

    Each row is copied before the next one is decoded, so that the decoder can reuse the memory of
    the previous row while it is still in the cache.
    """
    batch: Batch = {}
    for number, row in enumerate(rows):
        batch = batch or _allocate(row, count, pool or BufferPool())
        for name, value in row.items():
            if isinstance(value, Image.Image):
                images.copy_pixels(value, batch[name][number])
            else:
                batch[name][number] = value
    # np.str_ has the width of the longest string, which is known only now
    return {n: v.astype(np.str_) if v.dtype == object else v for n, v in batch.items()}


def _allocate(row: Mapping[str, Any], count: int, pool: BufferPool) -> Batch:
    """Return arrays for `count` such rows in one buffer; strings are objects, of any length."""
    kinds, shapes, sizes = {}, {}, {}
    for name, value in row.items():
        is_image = isinstance(value, Image.Image)
        kind, shape = (np.dtype(np.uint8), (*value.size[::-1], 3)) if is_image else _form(value)
        kinds[name], shapes[name] = kind, (count, *shape)
        sizes[name] = math.prod(shapes[name]) * kind.itemsize
    buffer = pool.acquire(max(HUGE_BYTES, sum(size + ALIGN_BYTES for size in sizes.values())))
    batch, start = {}, 0
    for name, shape in shapes.items():
        if kinds[name].kind == "O":
            batch[name] = np.empty(shape, object)
            continue
        batch[name] = buffer[start : start + sizes[name]].view(kinds[name]).reshape(shape)
        # aligned to cache lines, which JAX needs to use host memory without a copy
        start += -(-sizes[name] // ALIGN_BYTES) * ALIGN_BYTES
    return batch


def _form(value: np.ndarray | np.generic) -> tuple[np.dtype, tuple[int, ...]]:
    return np.dtype(object) if value.dtype.kind == "U" else value.dtype, value.shape


def make_float_batch(batch: Batch) -> Batch:
    """Return a copy of the batch with float32 images in [-1, 1] and float32 latents."""
    # np.array for the rest: a view of one small array would keep the whole buffer alive
    convert = {np.dtype(np.uint8): images.to_signed, np.dtype("<f2"): np.float32}
    return {name: convert.get(value.dtype, np.array)(value) for name, value in batch.items()}


def _augment_photo(
    image: Image.Image | None,
    slot: tuple[int, int],
    change: augment.Augmentation,
    move: augment.Move,
) -> Image.Image:
    if image is not None and change != NO_AUGMENTATION:
        pixels = augment.adjust_colors(np.asarray(image), change)
        pixels = np.ascontiguousarray(pixels[:, ::-1]) if change.flip else pixels
        image = Image.fromarray(pixels)
    return _fit_into_slot(image, slot, WHITE, move)


def _fit_into_slot(
    image: Image.Image | None, slot: tuple[int, int], fill: int, move: augment.Move
) -> Image.Image:
    if image is None:
        height_px, width_px = slot
        return Image.new("RGB", (width_px, height_px), (fill, fill, fill))
    if move == augment.Move():
        return images.letterbox_image(image, *slot, fill)
    return Image.fromarray(augment.apply_move(np.asarray(image), slot, fill, move))
