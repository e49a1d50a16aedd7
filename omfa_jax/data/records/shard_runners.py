"""Write shards with the processes of this machine or with the workers of Apache Beam."""

import collections
import functools
import logging
from collections.abc import Sequence

from tqdm import tqdm

from omfa_jax.core.process_pool import ordered_map
from omfa_jax.data.records.beam_pipeline import write_shards_with_beam
from omfa_jax.data.records.shards import Shard, ShardOutcome, ShardSource, write_shard
from omfa_jax.data.records.staging import StagingFolder
from omfa_jax.data.records.write_options import WriteOptions

log = logging.getLogger(__name__)


def write_shards(
    partial: StagingFolder, source: ShardSource, shards: Sequence[Shard], how: WriteOptions
) -> None:
    """Write every missing shard; log what a restart found."""
    partial.delete_other_shards([shard.file_name for shard in shards])
    if how.runner == "beam":
        write_shards_with_beam(partial, source, shards, how.beam_options)
        return
    write = functools.partial(write_shard, partial, source)
    total = sum(shard.stop - shard.start for shard in shards)
    fates: collections.Counter[ShardOutcome] = collections.Counter()
    with tqdm(total=total, desc=partial.dataset_path, unit="record", disable=None) as bar:

        def advance(records: int) -> None:
            if bar.n == 0:
                # the time left does not count what is loaded and compiled before the first record
                bar.unpause()
            bar.update(records)

        # in this process the bar advances by record, with workers by shard
        if how.processes == 1:
            for shard in shards:
                fates[write(shard, advance=advance)] += 1
        else:
            for shard, fate in zip(shards, ordered_map(write, shards, how.processes), strict=True):
                fates[fate] += 1
                bar.update(shard.stop - shard.start)
    if fates["kept"]:
        log.info("%d of %d shards were kept from an earlier run", fates["kept"], len(shards))
    if fates["rewritten"]:
        log.warning(
            "%d shards of an earlier run were rewritten: damaged, or made from other input or"
            " settings",
            fates["rewritten"],
        )
