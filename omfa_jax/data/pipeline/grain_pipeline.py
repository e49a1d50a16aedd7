"""The Grain pipeline from records to batches: deterministic in the seed, resumable at any batch.

Steps: reshuffle all records of each folder in each epoch; interleave the folders by weight;
decode; group into batches, which may span epochs; split each batch among the shards. The parts of
the shards, concatenated in order, are the batch that a single shard would get. The state is the
number of batches consumed, so a run can resume with another number of shards, threads or processes.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import grain
import numpy as np
from absl import flags

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.pipeline.batch import Batch
from omfa_jax.data.pipeline.buffer_pool import BufferPool
from omfa_jax.data.pipeline.decode_record import PilExample, make_float_batch, stack_examples
from omfa_jax.data.pipeline.example_reader import open_example_reader
from omfa_jax.data.pipeline.mixture import TrainingOrder
from omfa_jax.data.pipeline.settings import PipelineSettings, make_eval_settings
from omfa_jax.data.pipeline.worker_iterator import ResumableWorkerIterator

SEED_LIMIT = 2**32
# Grain needs a length: more batches than any run consumes
MAX_BATCHES = 2**53


def make_train_iterator(
    settings: PipelineSettings,
    *,
    split: str,
    batch_size: int,
    seed: int,
    tasks: Sequence[Task],
    shard: int = 0,
    shards: int = 1,
) -> grain.DatasetIterator[Batch] | ResumableWorkerIterator:
    """Return the endless training iterator of one shard, with get_state and set_state.

    `batch_size` is the global batch size; each shard gets batch_size / shards rows. Batches are
    `TrainImageBatch` or `TrainLatentBatch`, by the kind of records (see batch.py). The state is
    JSON-serializable.

    Raises OmfaError if the records, the split, the batch size or the tasks cannot be used.
    """
    _check_shards(batch_size, shard, shards)
    shares = compute_task_shares(tasks).tolist()
    folders = settings.mixture or ((settings.records, 1.0),)
    opened = [
        open_example_reader(replace(settings, records=folder), split) for folder, _ in folders
    ]
    if len({source.kind for source in opened}) > 1:
        raise OmfaError("config.data.mixture: expected folders of one kind, got latents and images")
    for source in opened:
        source.records.copy_in_background()
    # Grain seeds are 32-bit
    seed %= SEED_LIMIT
    counts = [len(source.records) for source in opened]
    for (folder, _), count in zip(folders, counts, strict=True):
        if not count:
            raise OmfaError(f"{folder}: split {split!r} holds no records to train on")
    order = TrainingOrder(counts, [weight for _, weight in folders], seed)

    # all draws are functions of (seed, position): threads may decode in any order
    def example(position: int) -> PilExample:
        # the task has the unnamed stream of the position; example_reader names the others
        task = bisect.bisect_right(shares, np.random.default_rng((seed, position)).random())
        entry = order[position]
        facts = {
            "task": np.int32(task),
            "index": np.int64(entry.index),
            "dataset": np.int32(entry.dataset),
            "epoch": np.int32(entry.epoch),
        }
        return opened[entry.dataset].read_training_example(entry.index, seed, position) | facts

    parts = _make_batch_dataset(example, MAX_BATCHES, batch_size, shard, shards)
    if not settings.processes:
        return iter(_prefetch(parts, settings))
    workers = grain.MultiprocessingOptions(settings.processes)
    if not flags.FLAGS.is_parsed():
        # Grain's workers read absl flags, which raise unless absl's own main has parsed them
        flags.FLAGS.mark_as_parsed()

    def open_from(consumed: int) -> grain.DatasetIterator[Batch]:
        return iter(_prefetch(parts[consumed:], settings).mp_prefetch(workers))

    return ResumableWorkerIterator(open_from)


def describe_training_records(settings: PipelineSettings, split: str) -> dict[str, str]:
    """Return {folder: "N records, digest D"} of all folders that `make_train_iterator` reads.

    Processes with other records of the same shape have another digest.
    """
    described = {}
    for folder, _ in settings.mixture or ((settings.records, 1.0),):
        source = open_example_reader(replace(settings, records=folder), split).records
        described[folder] = f"{len(source)} records, digest {source.compute_digest()}"
    return described


def make_eval_iterator(
    settings: PipelineSettings,
    *,
    split: str,
    batch_size: int,
    shard: int = 0,
    shards: int = 1,
    limit: int | None = None,
    unpaired: bool = False,
) -> Iterator[Batch]:
    """Return an iterator over one pass of the split, in order, in batches of one size.

    It reads `settings.records` without augmentation. Batches are `EvalImageBatch` or
    `EvalLatentBatch` (see batch.py). `limit`: stop after this many records. `unpaired`: return the
    garment that the person does not wear; raises an OmfaError if a record has none or the records
    are latents. Every shard yields the same number of batches.
    """
    _check_shards(batch_size, shard, shards)
    opened = open_example_reader(make_eval_settings(settings), split)
    if unpaired and opened.kind == "latents":
        raise OmfaError(
            f"{settings.records} holds latents, which have no unpaired garments; give image records"
        )
    source = opened.records
    count = len(source) if limit is None else min(limit, len(source))
    # rounded up: the last batch is filled, so that all batches share one compiled program
    batches = -(-count // batch_size)

    def example(position: int) -> PilExample:
        # past the end: repeat the last record, marked as not valid
        index = min(position, count - 1)
        record = source[index]
        names = {"key": np.str_(record.key), "group": np.str_(record.group)}
        facts = {"valid": np.bool_(position < count), "index": np.int64(index)}
        return opened.decode(record, unpaired=unpaired) | names | facts

    parts = _make_batch_dataset(example, batches, batch_size, shard, shards).map(make_float_batch)
    return iter(_prefetch(parts, settings))


def compute_task_shares(tasks: Sequence[Task]) -> np.ndarray:
    """Return the cumulative distribution of the tasks' weights, for sampling with one uniform."""
    weights = np.array([task.weight for task in tasks], float)
    if not weights.sum() > 0:
        raise OmfaError("tasks: expected at least one task with a weight above 0")
    shares = np.cumsum(weights / weights.sum())
    # rounding must neither leave a gap below 1 nor let a trailing task of weight 0 be drawn
    shares[int(np.flatnonzero(weights)[-1]) :] = 1.0
    return shares


def _make_batch_dataset(
    example: Callable[[int], PilExample], batches: int, batch_size: int, shard: int, shards: int
) -> grain.MapDataset[Batch]:
    """Return one shard's part of every batch; batch b starts at position b * batch_size."""
    # The unit of Grain's threads is a batch, not a record: each thread fills one buffer, and there
    # is no second copy to collate records.
    rows, pool = batch_size // shards, BufferPool()

    def part(batch: int) -> Batch:
        first = batch * batch_size + shard * rows
        return stack_examples(map(example, range(first, first + rows)), rows, pool)

    return grain.MapDataset.range(batches).map(part)


def _prefetch(
    parts: grain.MapDataset[Batch], settings: PipelineSettings
) -> grain.IterDataset[Batch]:
    options = grain.ReadOptions(
        num_threads=settings.threads, prefetch_buffer_size=settings.prefetch_batches
    )
    return parts.to_iter_dataset(options)


def _check_shards(batch_size: int, shard: int, shards: int) -> None:
    if not 0 <= shard < shards:
        raise OmfaError(f"shard: expected 0 <= shard < {shards}, got {shard}")
    if batch_size < 1 or batch_size % shards:
        raise OmfaError(
            f"batch_size: expected a positive multiple of {shards} shards, got {batch_size}"
        )
