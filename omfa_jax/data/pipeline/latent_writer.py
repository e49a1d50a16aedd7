"""Encode a records folder to VAE latents once, so that training does not have to.

A latents folder has the splits, keys and order of the image records it was made from;
`make_train_iterator` reads either kind.
"""

import collections
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32

from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.batch import Batch
from omfa_jax.data.pipeline.decode_record import Slots, check_slots, decode_record, make_float_batch
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.finalize import finalize_records, require_free
from omfa_jax.data.records.latent_moments import FLOAT16_MAX, pack_moments
from omfa_jax.data.records.shard_runners import write_shards
from omfa_jax.data.records.shards import (
    Shard,
    ShardReport,
    compute_stamp,
    plan_shards,
    read_shard_report,
)
from omfa_jax.data.records.staging import open_staging_folder
from omfa_jax.data.records.write_options import SHARD_RECORDS, WriteOptions

# (b, H, W, 3) float32 to latents, or to their mean and standard deviation, (b, h, w, c) each. The
# arrays may be of any kind that numpy converts, so that the device can still be computing them.
EncodeFn = Callable[[Float32[np.ndarray, "b H W 3"]], Any]

NAME, VERSION = "latents", "1.0.0"
IMAGE_NAMES = (*COMPONENTS, "pose")

log = logging.getLogger(__name__)

# batches that the device computes while an older one is written
BATCHES_IN_FLIGHT = 1


@dataclass(frozen=True)
class LatentShardSource:
    """Source of the latent records of a shard. No batch spans two shards."""

    records_dir: str
    encode: EncodeFn
    slots: Slots
    vae_id: str
    batch_size: int
    threads: int
    kind: record_schema.Kind = "latents"

    def stamp(self, shard: Shard) -> str:
        """Return a digest of the VAE's id, the slots, the batch size and the records' files."""
        root = to_path(self.records_dir)
        place = root / record_schema.read_manifest(root)["builder"]
        files = sorted(place.glob(f"*-{shard.split}.*"))
        sizes = {name: list(size) for name, size in self.slots.items()}
        return compute_stamp(
            shard, root / record_schema.MANIFEST, files, self.vae_id, sizes, self.batch_size
        )

    def iter_records(
        self, shard: Shard, report: ShardReport
    ) -> Iterator[record_schema.LatentRecord]:
        """Yield the shard's latent records; their shapes are added to `report.facts`."""
        # the device encodes the next batch while this one is fetched and written
        in_flight: collections.deque[tuple[Batch, dict[str, Any]]] = collections.deque()
        with contextlib.closing(self._batches(shard)) as batches:
            for batch in map(make_float_batch, batches):
                in_flight.append((batch, {name: self.encode(batch[name]) for name in IMAGE_NAMES}))
                if len(in_flight) > BATCHES_IN_FLIGHT:
                    yield from _records(*in_flight.popleft(), report.facts)
        while in_flight:
            yield from _records(*in_flight.popleft(), report.facts)

    def _batches(self, shard: Shard) -> grain.DatasetIterator[Batch]:
        source = record_schema.open_records(self.records_dir, shard.split)
        batches = -(-(shard.stop - shard.start) // self.batch_size)

        def example(position: int) -> dict[str, Any]:
            # repeat the last record to fill the last batch: the encoder compiles for one size
            record = source[min(shard.start + position, shard.stop - 1)]
            names = {"key": np.str_(record.key), "group": np.str_(record.group)}
            valid = np.bool_(shard.start + position < shard.stop)
            return decode_record(record, self.slots) | names | {"valid": valid}

        options = grain.ReadOptions(self.threads, prefetch_buffer_size=max(1, self.threads))
        rows = grain.MapDataset.range(batches * self.batch_size).map(example)
        return iter(rows.batch(self.batch_size).to_iter_dataset(options))


def write_latents(
    records_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    encode: EncodeFn,
    *,
    slots: Slots,
    vae_id: str,
    batch_size: int = 8,
    splits: Sequence[str] | None = None,
    overwrite: bool = False,
    threads: int = 4,
    shard_records: int = SHARD_RECORDS,
    runner: str = "local",
    beam_options: str = "",
) -> dict[str, Any]:
    """Write the latents of every record's garment, person, face and pose map; return the manifest.

    `encode` takes (b, H, W, 3) float32 in [-1, 1] at a slot's size, always `batch_size` images,
    and returns the latents' mean and standard deviation, or latents alone, (b, h, w, c) each;
    they are stored as float16. `vae_id` identifies the VAE: training refuses latents of another.
    `splits`: None means all. Atomicity, restarts and runners are as in `build_records`; for "beam"
    `encode` must be picklable. Raises OmfaError if the records cannot be read, `out_dir` is in use,
    or the latents are not finite or change shape.
    """
    require_disjoint(out_dir, {"--records": records_dir})
    how = WriteOptions(shard_records, runner, beam_options)
    manifest = record_schema.read_manifest(records_dir)
    if manifest["kind"] != "images":
        raise OmfaError(f"{records_dir}: expected image records, found latents; change --records")
    if batch_size < 1:
        raise OmfaError(f"--batch-size: expected 1 or more, got {batch_size}")
    check_slots(slots)
    require_free(out_dir, overwrite, "latents")
    chosen = list(manifest["splits"] if splits is None else splits)
    lacking = manifest.get("without_garment", {})
    for split in (split for split in chosen if split in lacking):
        log.warning(
            "%s: %d records of split %s have no garment of their own; no latents of this split",
            records_dir,
            lacking[split],
            split,
        )
    chosen = [split for split in chosen if split not in lacking]
    if not chosen:
        raise OmfaError(f"{records_dir}: no split has a garment of every person; change --records")
    counts = {split: len(record_schema.open_records(records_dir, split)) for split in chosen}
    shards = plan_shards(NAME, counts, shard_records)
    # absolute: Beam workers may run in another directory
    folder = os.fspath(to_path(records_dir).absolute())
    source = LatentShardSource(folder, encode, dict(slots), vae_id, batch_size, threads)
    with open_staging_folder(out_dir, f"{NAME}/{VERSION}") as partial:
        write_shards(partial, source, shards, how)
        written: dict[str, Any] = {"shapes": {}}
        for shard in shards:
            for fact, value in read_shard_report(partial, shard).facts.items():
                _merge_fact(written, fact, value)
        stride = slots["person"][0] // written["shapes"]["person"][0]
        facts = {
            "vae_id": vae_id,
            "slots": {name: list(slots[name]) for name in COMPONENTS},
            **written,
            "stride": stride,
            "channels": written["shapes"]["person"][2],
        }
        finalize_records(
            partial,
            "latents",
            shards,
            {"splits": counts, "pose_style": manifest.get("pose_style"), "latents": facts},
        )
        require_free(out_dir, overwrite, "latents")
        partial.publish(out_dir)
    return record_schema.read_manifest(out_dir)


def _records(
    batch: Batch, encoded: Mapping[str, Any], facts: dict[str, Any]
) -> Iterator[record_schema.LatentRecord]:
    moments = {name: _moments(name, encoded[name], batch[name], facts) for name in IMAGE_NAMES}
    for row in np.flatnonzero(batch["valid"]):
        has_pose = bool(batch["has_pose"][row])
        arrays = {
            name: pack_moments(mean[row], None if std is None else std[row])
            for name, (mean, std) in moments.items()
        }
        # the encoding of a black image is not the null pose
        if not has_pose:
            arrays["pose"] = b""
        key, group = str(batch["key"][row]), str(batch["group"][row])
        yield record_schema.LatentRecord(key=key, has_pose=has_pose, group=group, **arrays)


def _moments(
    name: str, encoded: Any, batch_images: np.ndarray, facts: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the checked mean and deviation of a batch; their shapes must match `facts`."""
    both = encoded if isinstance(encoded, tuple) else (encoded,)
    arrays = [np.asarray(array) for array in both]
    for array in arrays:
        # written so that NaN fails too
        fits = bool((np.abs(array) <= FLOAT16_MAX).all())
        if array.ndim != 4 or len(array) != len(batch_images) or not fits:
            came = f"{array.shape} with values up to {np.abs(array).max():.3g}"
            raise OmfaError(
                f"encoding {name}: expected (b, h, w, c) in float16's range, got {came}"
            )
    if len(arrays) > 2 or arrays[0].shape != arrays[-1].shape:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise OmfaError(
            f"encoding {name}: expected mean and deviation of equal shape, got {shapes}"
        )
    _merge_fact(facts, "moments", len(arrays) == 2)
    _merge_fact(facts, "shapes", {name: list(arrays[0].shape[1:])})
    return arrays[0], arrays[1] if len(arrays) == 2 else None


def _merge_fact(facts: dict[str, Any], name: str, value: Any) -> None:
    """Add a fact, mappings key by key; OmfaError if it contradicts an earlier one."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _merge_fact(facts.setdefault(name, {}), key, entry)
    elif facts.setdefault(name, value) != value:
        raise OmfaError(
            f"encoding {name}: expected {facts[name]} as in earlier batches, got {value}"
        )
