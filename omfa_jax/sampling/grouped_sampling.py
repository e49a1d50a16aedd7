"""Sampling of many examples in groups; each image depends on its example and the seed only.

The arithmetic for an example does not change with the batch size, the devices, the hosts or a
restart: its noise is its own (`diffusion.noise`), a device always works on the same number of rows,
and example i is always row i mod rows of its group of consecutive examples. Rows without an example
hold a copy of another: they change no other row. XLA sums in another order for another number of
rows, so that number is part of a run's settings.
"""

import collections
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.images import from_signed, to_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.decode_record import stack_examples
from omfa_jax.diffusion.noise import make_example_ids
from omfa_jax.sampling.sampler import Sampler

# examples that a device computes at once; fixed, because XLA sums differently at other sizes
ROWS_PER_GROUP = 4
# rounds of all devices whose inputs are read while others are computed
ROUNDS_READ_AHEAD = 2
MAX_THREADS = 8

STACKED = (*COMPONENTS, "pose", "has_pose")

Finished = TypeVar("Finished")
# by name: images (h, w, 3) at the slot sizes, uint8 or float32 in [-1, 1], pose and has_pose; what
# else there is comes back to `finish`
SampledInputs = Mapping[str, Any]


@dataclass(frozen=True)
class GroupedWork(Generic[Finished]):
    """What to sample: the examples are numbers, and `names` says what their noise depends on.

    `load(place)` returns an example's inputs, or None to leave it out. `finish(place, inputs,
    images)` gets them back with the generated uint8 (h, w, 3) images of each component. Both are
    called in threads, several at a time.
    """

    task: str
    names: Sequence[str]
    load: Callable[[int], SampledInputs | None]
    finish: Callable[[int, SampledInputs, dict[str, UInt8[np.ndarray, "h w 3"]]], Finished]


# a round's (row, place) of every example, and the devices' output for it
_Row = tuple[int, int, SampledInputs]


def sample_groups(
    sampler: Sampler,
    work: GroupedWork[Finished],
    places: Sequence[int],
    *,
    seed: int,
    rows: int = ROWS_PER_GROUP,
    batch_size: int = 0,
    params: Any = None,
    on_compiled: Callable[[], Any] | None = None,
) -> Iterator[list[Finished]]:
    """Sample the examples `places`, ascending; yield the results of `finish`, a round at a time.

    A round is one group of `rows` for each device of the sampler. `batch_size` examples are in
    flight at once, rounded down to rounds, at least one (0: two rounds). It changes the memory used
    and not the images. Two more rounds are being read meanwhile; memory does not grow with
    the number of examples. `on_compiled` is called when the devices have the first round.
    """
    size = rows * sampler.devices
    ahead = max(1, batch_size // size) if batch_size else 2
    rounds = iter(_make_rounds(places, rows, sampler.devices))
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    loading: collections.deque[list[tuple[int, int, Future]]] = collections.deque()
    flying: collections.deque[tuple[list[_Row], Any]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:

        def start_loading() -> None:
            for chosen in itertools.islice(rounds, 1):
                loading.append([(row, at, pool.submit(work.load, at)) for row, at in chosen])

        def finish_round() -> list[Finished]:
            ready, output = flying.popleft()
            images = {name: from_signed(np.asarray(made)) for name, made in output.items()}
            jobs = [
                pool.submit(work.finish, at, inputs, {n: i[row] for n, i in images.items()})
                for row, at, inputs in ready
            ]
            return [job.result() for job in jobs]

        try:
            for _ in range(ROUNDS_READ_AHEAD):
                start_loading()
            while loading:
                read = [(row, at, job.result()) for row, at, job in loading.popleft()]
                start_loading()
                ready = [(row, at, inputs) for row, at, inputs in read if inputs is not None]
                if ready:
                    # returns before the devices are done
                    output = _dispatch(sampler, work, ready, size, seed=seed, params=params)
                    flying.append((ready, output))
                    if on_compiled is not None:
                        on_compiled()
                        on_compiled = None
                if len(flying) >= ahead:
                    yield finish_round()
            while flying:
                yield finish_round()
        finally:
            pool.shutdown(cancel_futures=True)


def _make_rounds(places: Sequence[int], rows: int, devices: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the (row in the round, place) of the examples of each round."""
    groups = [list(members) for _, members in itertools.groupby(places, lambda at: at // rows)]
    for start in range(0, len(groups), devices):
        yield [
            (number * rows + place % rows, place)
            for number, members in enumerate(groups[start : start + devices])
            for place in members
        ]


def _dispatch(
    sampler: Sampler, work: GroupedWork, ready: list[_Row], size: int, *, seed: int, params: Any
) -> Any:
    # rows without an example are filled: the program is the same for every round
    filled = [ready[0]] * size
    for row in ready:
        filled[row[0]] = row
    batch = stack_examples(
        ({name: inputs[name] for name in STACKED if name in inputs} for _, _, inputs in filled),
        size,
    )
    signed = {
        name: to_signed(batch[name]) if batch[name].dtype == np.uint8 else batch[name]
        for name in (*COMPONENTS, "pose")
        if name in batch
    }
    pose = signed.pop("pose")
    return sampler.dispatch(
        work.task,
        signed,
        pose,
        seed=seed,
        has_pose=batch["has_pose"],
        params=params,
        ids=make_example_ids(work.names[place] for _, place, _ in filled),
    )


def get_busy_devices(count: int, rows: int = ROWS_PER_GROUP) -> list[Any]:
    """Return this process's devices, at most as many as `count` examples have groups."""
    groups = -(-count // (rows * jax.process_count()))
    return jax.local_devices()[: max(1, groups)]


def get_process_share(
    count: int, process: int, processes: int, rows: int = ROWS_PER_GROUP
) -> list[int]:
    """Return the indices of the examples that a process samples.

    Groups are dealt in turn, so that processes finish together even when a restart has left gaps.
    """
    return [place for place in range(count) if place // rows % processes == process]
