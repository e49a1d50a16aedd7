"""Grain pipeline: records to batches, a function of (seed, epoch) alone and resumable anywhere.

Order of work: shuffle all records, repeat with another shuffle each epoch, decode, group into
batches that run over epoch ends, deal the batches' parts to the shards. A batch's parts, in the
order of the shards, are the batch that a single shard would get; and the iterator's state is the
number of batches consumed, so a run may resume with another number of shards.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.data import faces, schema
from omfa_jax.data.moments import moments_to_latents

Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]
Slots = Mapping[str, tuple[int, int]]

# A picture that is not there: white paper for a garment or face, black (nobody) for a pose map
WHITE, BLACK = 255, 0
SEED_LIMIT = 2**32


@dataclass(frozen=True)
class PipelineSettings:
    """Where the records are and how big the pictures get.

    `records`: folder of image records or of latents; which of the two is read from its manifest.
    `slots`: (height_px, width_px) of garment, person and face; the pose map has the person's.
    `vae_id`: what the latents must have been made with; "" for image records.
    `pose_style`: what the pose maps must have been drawn in, where the records know; "" for any.
    `threads`: decode this many batches at once (0: in the caller's thread).
    `prefetch_batches`: finished batches kept ready; memory is this many batches.
    """

    records: str
    slots: Slots
    vae_id: str = ""
    pose_style: str = ""
    threads: int = 4
    prefetch_batches: int = 8

    def __post_init__(self) -> None:
        check_slots(self.slots)
        if self.threads < 0 or self.prefetch_batches < 1:
            raise OmfaError("threads must be 0 or more and prefetch_batches 1 or more")


def check_slots(slots: Slots) -> None:
    """Raise an OmfaError unless every component has a (height, width) of at least 1 px."""
    for name in slots:
        if name not in COMPONENTS:
            raise unknown("component in slots", name, COMPONENTS)
    for name in COMPONENTS:
        size = slots.get(name)
        if size is None or len(size) != 2 or min(size) < 1:
            raise OmfaError(f"slots: expected (height_px, width_px) for {name!r}, got {size}")


def make_dataset(
    settings: PipelineSettings,
    *,
    split: str,
    batch_size: int,
    seed: int,
    tasks: Sequence[Task],
    shard: int = 0,
    shards: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Return the endless training iterator of one shard; it has get_state and set_state.

    `batch_size` is the global batch; each shard gets batch_size / shards rows of it. A batch has
    garment, person, face, pose (b h w 3, float32 in [-1, 1]), or garment_latents, ...
    (b h w c, float32) when the records are latents; has_pose (b,) bool, False where the pose is
    black (latents: zero); task (b,) int32, rows of `tasks` drawn by their weights; index (b,)
    int64, the record's number in its split. The state is JSON-able.

    Raises OmfaError if the records, the split, the batch size or the tasks cannot be used.
    """
    _check_shards(batch_size, shard, shards)
    shares = task_shares(tasks)
    source, decode = _open(settings, split)
    seed %= SEED_LIMIT
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()

    def example(position: int, index: int) -> Example:
        draw = np.random.default_rng((seed, position)).random()
        task = int(np.searchsorted(shares, draw, side="right"))
        return decode(source[index]) | {"task": np.int32(task), "index": np.int64(index)}

    rows = order.map_with_index(example)
    # the order is endless, so nothing is dropped; without this, Grain's length overflows at size 1
    parts = rows.batch(batch_size // shards, drop_remainder=True, batch_fn=_stack)
    return iter(_prefetched(parts[shard::shards], settings))


def eval_batches(
    settings: PipelineSettings,
    *,
    split: str,
    batch_size: int,
    shard: int = 0,
    shards: int = 1,
    limit: int | None = None,
    unpaired: bool = False,
) -> Iterator[Batch]:
    """Return an iterator over the split, once and in order, in batches of one size.

    The keys are `make_dataset`'s without task, plus key and group (b,) str and valid (b,) bool:
    False marks the rows that fill up the last batch (copies of the last record). `limit` stops
    after that many records. `unpaired` gives the garment that the person does not wear, and raises
    an OmfaError where a record has none or the records are latents. Every shard yields equally
    many batches.
    """
    _check_shards(batch_size, shard, shards)
    source, decode = _open(settings, split, unpaired=unpaired)
    count = len(source) if limit is None else min(limit, len(source))
    batches = -(-count // batch_size)

    def example(position: int) -> Example:
        index = min(position, count - 1)
        record = source[index]
        names = {"key": np.str_(record.key), "group": np.str_(record.group)}
        facts = {"valid": np.bool_(position < count), "index": np.int64(index)}
        return decode(record) | names | facts

    rows = grain.MapDataset.range(batches * batch_size).map(example)
    parts = rows.batch(batch_size // shards, batch_fn=_stack)
    return iter(_prefetched(parts[shard::shards], settings))


def task_shares(tasks: Sequence[Task]) -> np.ndarray:
    """Return the cumulative shares of the tasks' weights, for drawing by one uniform number."""
    weights = np.array([task.weight for task in tasks], float)
    if not weights.sum() > 0:
        raise OmfaError("tasks: expected at least one task with a weight above 0")
    shares = np.cumsum(weights / weights.sum())
    # rounding must not leave a gap below 1, nor let a trailing task of weight 0 be drawn
    shares[int(np.flatnonzero(weights)[-1]) :] = 1.0
    return shares


def decode_record(record: schema.Record, slots: Slots, *, unpaired: bool = False) -> Example:
    """Return one record's pictures at the slot sizes, float32 in [-1, 1], and has_pose.

    The face is the record's face box; white where no face was found.
    """
    if unpaired and not record.unpaired_garment:
        raise OmfaError(f"record {record.split}/{record.key} has no unpaired garment")
    person = images.read_rgb(record.person, f"person of {record.key}")
    garment = record.unpaired_garment if unpaired else record.garment
    pictures = {
        "garment": images.read_rgb(garment, f"garment of {record.key}"),
        "person": person,
        "face": faces.crop_face(person, record.face_box_px) if record.has_face else None,
    }
    boxed = {name: _boxed(picture, slots[name], WHITE) for name, picture in pictures.items()}
    pose = images.read_rgb(record.pose, f"pose map of {record.key}") if record.has_pose else None
    boxed["pose"] = _boxed(pose, slots["person"], BLACK)
    return {**boxed, "has_pose": np.bool_(record.has_pose)}


def decode_latents(
    record: schema.LatentRecord,
    shapes: Mapping[str, Sequence[int]],
    rng: np.random.Generator | None = None,
) -> Example:
    """Return one latent record's arrays (h, w, c) as float32, and has_pose (else zero latents).

    With `rng` they are drawn from the posterior, where its deviation is stored; else its mean.
    """
    decoded: Example = {"has_pose": np.bool_(record.has_pose)}
    for name, shape in shapes.items():
        stored = np.frombuffer(getattr(record, name), "<f2")
        decoded[f"{name}_latents"] = moments_to_latents(stored, shape, rng)
    return decoded


def _open(
    settings: PipelineSettings, split: str, *, unpaired: bool = False
) -> tuple[schema.RecordSource, Callable[[Any], Example]]:
    manifest = schema.read_manifest(settings.records)
    source = schema.open_records(settings.records, split)
    drawn = manifest.get("pose_style")
    if drawn and settings.pose_style and drawn != settings.pose_style:
        raise OmfaError(
            f"{settings.records}: its pose maps are {drawn!r}, asked for {settings.pose_style!r};"
            " change config.data.pose_style, or run `omfa data poses --style` and build again"
        )
    if manifest["kind"] == "images":
        return source, lambda record: decode_record(record, settings.slots, unpaired=unpaired)
    if unpaired:
        raise OmfaError(f"{settings.records} holds latents, which have no unpaired garments")
    check_latents(settings, manifest["latents"])
    shapes = manifest["latents"]["shapes"]
    return source, lambda record: decode_latents(record, shapes)


def check_latents(settings: PipelineSettings, written: Mapping[str, Any]) -> None:
    """Raise an OmfaError if latents were made by another VAE or at other sizes than asked."""
    asked = {name: list(settings.slots[name]) for name in COMPONENTS}
    for what, came, wanted in (
        ("VAE", written["vae_id"], settings.vae_id),
        ("slots", written["slots"], asked),
    ):
        if came != wanted:
            raise OmfaError(
                f"{settings.records}: latents were written for {what} {came}, "
                f"asked for {wanted}; run `omfa data latents` again"
            )


def _boxed(
    picture: np.ndarray | None, slot: tuple[int, int], fill: int
) -> Float32[np.ndarray, "h w 3"]:
    if picture is None:
        picture = np.full((*slot, 3), fill, np.uint8)
    return images.to_signed(images.letterbox(picture, *slot, fill=fill))


def _stack(rows: Sequence[Example]) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _prefetched(
    parts: grain.MapDataset[Batch], settings: PipelineSettings
) -> grain.IterDataset[Batch]:
    options = grain.ReadOptions(
        num_threads=settings.threads, prefetch_buffer_size=settings.prefetch_batches
    )
    return parts.to_iter_dataset(options)


def _check_shards(batch_size: int, shard: int, shards: int) -> None:
    if not 0 <= shard < shards:
        raise OmfaError(f"shard: expected 0 <= shard < {shards} shards, got {shard}")
    if batch_size < 1 or batch_size % shards:
        raise OmfaError(
            f"batch_size: expected a positive multiple of {shards} shards, got {batch_size}"
        )
