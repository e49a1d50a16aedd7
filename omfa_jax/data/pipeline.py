"""Grain pipeline: records to batches, a function of (seed, epoch) alone and resumable anywhere.

Order of work: shuffle all records (of several folders: each folder's, then dealt out by weight),
repeat with another shuffle each epoch, decode, group into batches that run over epoch ends, deal
the batches' parts to the shards. A batch's parts, in the order of the shards, are the batch that a
single shard would get; and the iterator's state is the number of batches consumed, so a run may
resume with another number of shards, threads or processes.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import grain
import numpy as np
from absl import flags

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.decode import Batch, Fitted, signed, stacked
from omfa_jax.data.elastic import ProcessBatches
from omfa_jax.data.folder import open_folder
from omfa_jax.data.mixture import Order
from omfa_jax.data.room import Rooms
from omfa_jax.data.settings import PipelineSettings, as_they_are

SEED_LIMIT = 2**32
# more than any training visits
BATCHES = 2**53


def make_dataset(
    settings: PipelineSettings,
    *,
    split: str,
    batch_size: int,
    seed: int,
    tasks: Sequence[Task],
    shard: int = 0,
    shards: int = 1,
) -> grain.DatasetIterator[Batch] | ProcessBatches:
    """Return the endless training iterator of one shard; it has get_state and set_state.

    `batch_size` is the global batch; each shard gets batch_size / shards rows of it. A batch has
    garment, person, face, pose (b h w 3, uint8), or garment_latents, ... (b h w c, float16) when
    the records are latents: as stored, a quarter or half of what float32 takes to keep and send;
    has_pose (b,) bool, False where the pose is black (latents: zero); task (b,) int32, rows of
    `tasks` drawn by their weights; index (b,) int64, the record's number in its split (the
    person's, where garment and face are another's); dataset (b,) int32, the folder's place in the
    mixture; epoch (b,) int32, how often that folder was gone through before. The state is
    JSON-able.

    Raises OmfaError if the records, the split, the batch size or the tasks cannot be used.
    """
    _check_shards(batch_size, shard, shards)
    shares = task_shares(tasks).tolist()
    folders = settings.mixture or ((settings.records, 1.0),)
    opened = [open_folder(replace(settings, records=folder), split) for folder, _ in folders]
    if len({source.kind for source in opened}) > 1:
        raise OmfaError("config.data.mixture: some folders hold latents, others images; give one")
    seed %= SEED_LIMIT
    counts = [len(source.records) for source in opened]
    for (folder, _), count in zip(folders, counts, strict=True):
        if not count:
            raise OmfaError(f"{folder}: its split {split!r} holds no records to train on")
    order = Order(counts, [weight for _, weight in folders], seed)

    def example(position: int) -> Fitted:
        task = bisect.bisect_right(shares, np.random.default_rng((seed, position)).random())
        drawn = order[position]
        facts = {
            "task": np.int32(task),
            "index": np.int64(drawn.index),
            "dataset": np.int32(drawn.dataset),
            "epoch": np.int32(drawn.epoch),
        }
        return opened[drawn.dataset].training_example(drawn.index, seed, position) | facts

    parts = _parts(example, BATCHES, batch_size, shard, shards)
    if not settings.processes:
        return iter(_prefetched(parts, settings))
    workers = grain.MultiprocessingOptions(settings.processes)
    if not flags.FLAGS.is_parsed():
        # Grain's workers ask for absl's flags, which only programs of absl's parse
        flags.FLAGS.mark_as_parsed()

    def open_from(consumed: int) -> grain.DatasetIterator[Batch]:
        return iter(_prefetched(parts[consumed:], settings).mp_prefetch(workers))

    return ProcessBatches(open_from)


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

    It reads `settings.records`, each record as it is. The keys are `make_dataset`'s, pictures and
    latents float32, pictures in [-1, 1], without task, dataset and epoch, plus key and group (b,)
    str and valid (b,) bool: False marks the rows that fill up the last batch (copies of the last
    record). `limit` stops after that many records. `unpaired` gives the garment that the person
    does not wear, and raises an OmfaError where a record has none or the records are latents. Every
    shard yields equally many batches.
    """
    _check_shards(batch_size, shard, shards)
    opened = open_folder(as_they_are(settings), split)
    if unpaired and opened.kind == "latents":
        raise OmfaError(f"{settings.records} holds latents, which have no unpaired garments")
    source = opened.records
    count = len(source) if limit is None else min(limit, len(source))
    batches = -(-count // batch_size)

    def example(position: int) -> Fitted:
        index = min(position, count - 1)
        record = source[index]
        names = {"key": np.str_(record.key), "group": np.str_(record.group)}
        facts = {"valid": np.bool_(position < count), "index": np.int64(index)}
        return opened.decoded(record, unpaired=unpaired) | names | facts

    parts = _parts(example, batches, batch_size, shard, shards).map(signed)
    return iter(_prefetched(parts, settings))


def task_shares(tasks: Sequence[Task]) -> np.ndarray:
    """Return the cumulative shares of the tasks' weights, for drawing by one uniform number."""
    weights = np.array([task.weight for task in tasks], float)
    if not weights.sum() > 0:
        raise OmfaError("tasks: expected at least one task with a weight above 0")
    shares = np.cumsum(weights / weights.sum())
    # rounding must not leave a gap below 1, nor let a trailing task of weight 0 be drawn
    shares[int(np.flatnonzero(weights)[-1]) :] = 1.0
    return shares


def _parts(
    example: Callable[[int], Fitted], batches: int, batch_size: int, shard: int, shards: int
) -> grain.MapDataset[Batch]:
    """Return a shard's part of every batch; batch b is positions b * batch_size and on."""
    rows, rooms = batch_size // shards, Rooms()

    def part(batch: int) -> Batch:
        first = batch * batch_size + shard * rows
        return stacked(map(example, range(first, first + rows)), rows, rooms)

    return grain.MapDataset.range(batches).map(part)


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
