"""From records to examples and batches: pictures decoded and fitted into their slots, latents."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data import augment, faces, schema
from omfa_jax.data.mirror import mirror_pose

Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]
Slots = Mapping[str, tuple[int, int]]

# A picture that is not there: white paper for a garment or face, black (nobody) for a pose map
WHITE, BLACK = 255, 0
# rows of a picture that are made signed at once: what fits a core's cache
ROWS_AT_ONCE = 16
# every float16 as float32, by its bits: half the time of numpy's conversion
HALVES = np.arange(2**16, dtype="<u2").view("<f2").astype(np.float32)


def check_slots(slots: Slots) -> None:
    """Raise an OmfaError unless every component has a (height, width) of at least 1 px."""
    for name in slots:
        if name not in COMPONENTS:
            raise unknown("component in slots", name, COMPONENTS)
    for name in COMPONENTS:
        size = slots.get(name)
        if size is None or len(size) != 2 or min(size) < 1:
            raise OmfaError(f"slots: expected (height_px, width_px) for {name!r}, got {size}")


def decode_record(
    record: schema.Record,
    slots: Slots,
    *,
    garment_of: schema.Record | None = None,
    change: augment.Augmentation | None = None,
    unpaired: bool = False,
) -> Example:
    """Return one record's pictures at the slot sizes, uint8 RGB, and has_pose.

    The face is the record's face box; white where no face was found. `garment_of` is the record
    that garment and face are taken from, if it is another. `change` moves person and pose map as
    one and mirrors and colours everything alike; the face is cut out before the photo moves.
    """
    if unpaired and not record.unpaired_garment:
        raise OmfaError(f"record {record.split}/{record.key} has no unpaired garment")
    worn = garment_of or record
    change = change or augment.Augmentation()
    person = images.read_rgb(record.person, f"person of {record.key}")
    encoded = record.unpaired_garment if unpaired else worn.garment
    garment = images.read_rgb(encoded, f"garment of {worn.key}")
    face = None
    if worn.has_face:
        wearer = person
        if worn is not record:
            wearer = images.read_rgb(worn.person, f"person of {worn.key}")
        face = faces.crop_face(wearer, worn.face_box_px)
    pose = images.read_rgb(record.pose, f"pose map of {record.key}") if record.has_pose else None
    if change.flip and pose is not None:
        pose = mirror_pose(pose)
    still = augment.Move()
    photos = {
        "garment": _fitted(garment, slots["garment"], change, change.garment),
        "person": _fitted(person, slots["person"], change, change.person),
        "face": _fitted(face, slots["face"], change, still),
    }
    black = np.full((*slots["person"], 3), BLACK, np.uint8)
    drawn = black if pose is None else augment.moved(pose, slots["person"], BLACK, change.person)
    return {**photos, "pose": drawn, "has_pose": np.bool_(record.has_pose)}


def decode_latents(
    record: schema.LatentRecord,
    shapes: Mapping[str, Sequence[int]],
    *,
    garment_of: schema.LatentRecord | None = None,
) -> Example:
    """Return one latent record's arrays (h, w, c) as float16, and has_pose (else zero latents)."""
    decoded: Example = {"has_pose": np.bool_(record.has_pose)}
    for name, shape in shapes.items():
        worn = garment_of is not None and name in ("garment", "face")
        encoded = getattr(garment_of if worn else record, name)
        latents = np.frombuffer(encoded, "<f2") if encoded else np.zeros(shape, "<f2")
        decoded[f"{name}_latents"] = latents.reshape(shape)
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


def stacked(rows: Sequence[Example]) -> Batch:
    """Return the examples as one batch: pictures as float32 in [-1, 1], latents as float32."""
    return {name: _stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


def _stack(values: list[np.ndarray]) -> np.ndarray:
    first = values[0]
    convert = {np.dtype(np.uint8): _to_signed, np.dtype("<f2"): _to_float}.get(first.dtype)
    if convert is None:
        return np.stack(values)
    # straight into the batch: one pass over memory instead of three
    batch = np.empty((len(values), *first.shape), np.float32)
    for value, row in zip(values, batch, strict=True):
        convert(value, row)
    return batch


def _to_signed(picture: UInt8[np.ndarray, "h w 3"], out: Float32[np.ndarray, "h w 3"]) -> None:
    for top in range(0, len(picture), ROWS_AT_ONCE):
        out[top : top + ROWS_AT_ONCE] = images.to_signed(picture[top : top + ROWS_AT_ONCE])


def _to_float(latents: np.ndarray, out: Float32[np.ndarray, "h w c"]) -> None:
    # a mode other than "raise" writes without a buffer; 16 bits cannot be out of the table's range
    np.take(HALVES, latents.view("<u2"), out=out, mode="clip")


def _fitted(
    picture: np.ndarray | None,
    slot: tuple[int, int],
    change: augment.Augmentation,
    move: augment.Move,
) -> UInt8[np.ndarray, "h w 3"]:
    if picture is None:
        return np.full((*slot, 3), WHITE, np.uint8)
    picture = augment.recoloured(picture, change)
    if change.flip:
        picture = np.ascontiguousarray(picture[:, ::-1])
    return augment.moved(picture, slot, WHITE, move)
