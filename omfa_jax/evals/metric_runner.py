"""Running every metric over every image, in threads, with the values cached on the way.

A network sees one image at a time and each image is computed by one thread, so the values do not
depend on the number of images in flight, the order of the files or the number of cores.
"""

import collections
import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.file_matching import MatchResult
from omfa_jax.evals.image_preparation import FileFacts, prepare_image
from omfa_jax.evals.metric_cache import MetricCache
from omfa_jax.evals.metric_fns import MetricFn

FoundValue = tuple[int, str, Float[np.ndarray, " d"]]


@dataclass
class MetricJob:
    """The pending computations of one match: pairwise metrics, and features of single files.

    Each entry starts with the index of its metric function and the key of its value in the cache.
    """

    pred: Path | None = None
    truth: Path | None = None
    pairwise: list[tuple[int, str]] = field(default_factory=list)
    features: list[tuple[int, str, Path]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.pairwise or self.features)


class MetricRunner:
    """Computes the missing values of the metrics and finds them by metric and files."""

    def __init__(self, computers: list[MetricFn], facts: dict[Path, FileFacts], cache: AnyPath):
        self.computers, self.facts = computers, facts
        self.caches = [MetricCache(cache, computer.identity) for computer in computers]

    def make_key(self, *paths: Path) -> str:
        """Return the cache key of one file, or of two that are compared."""
        return ".".join(self.facts[path].sha256 for path in paths)

    def get_value(self, computer: MetricFn, *paths: Path) -> Float[np.ndarray, " d"]:
        """Return the value of a metric function on one file, or on two."""
        number = next(i for i, other in enumerate(self.computers) if other is computer)
        return self.caches[number].values[self.make_key(*paths)]

    def plan(self, matched: MatchResult) -> list[MetricJob]:
        """Return the work whose values are not in the cache, at most one item a match."""
        # equal images under several names are computed once
        claimed: set[tuple[int, str]] = set()
        works = []
        for match in matched.matches:
            work = MetricJob(match.pred, match.truth)
            for number, computer in enumerate(self.computers):
                if computer.is_pairwise:
                    # without a prediction there is no pair; set distances still need the truth
                    files = [(match.pred, match.truth)] if match.pred else []
                else:
                    files = [(path,) for path in (match.pred, match.truth, match.garment) if path]
                for paths in files:
                    key = self.make_key(*paths)
                    if key in self.caches[number] or (number, key) in claimed:
                        continue
                    claimed.add((number, key))
                    if computer.is_pairwise:
                        work.pairwise.append((number, key))
                    else:
                        work.features.append((number, key, paths[0]))
            if work:
                works.append(work)
        return works

    def run(self, works: list[MetricJob], *, workers: int, batch_size: int) -> None:
        """Do the work; the values are written to the cache every `batch_size` items."""
        with limit_torch_threads(self.computers), _pool(workers) as pool:
            # twice the workers: the pool stays busy while results are written, and memory bounded
            made = _map_bounded(pool, self._do, works, 2 * workers)
            progress = tqdm(made, total=len(works), desc="scoring", unit="image")
            try:
                for count, found in enumerate(progress, 1):
                    for number, key, value in found:
                        self.caches[number].add(key, value)
                    if count % batch_size == 0:
                        self._flush()
            finally:
                # an interrupted run keeps what it has computed
                self._flush()

    def _flush(self) -> None:
        for space in self.caches:
            space.flush()

    def _do(self, work: MetricJob) -> list[FoundValue]:
        # each file is decoded once for all metrics, and released with its match
        images: dict[Path, np.ndarray] = {}

        def read(path: Path) -> np.ndarray:
            if path not in images:
                images[path] = read_rgb(path, "image")
            return images[path]

        found: list[FoundValue] = []
        for number, key in work.pairwise:
            assert work.pred and work.truth
            computer = self.computers[number]
            prepare = computer.choice.prepare
            # the truth first: its prepared size is the size of the prediction
            truth = prepare_image(read(work.truth), prepare)
            image = prepare_image(read(work.pred), prepare, truth.shape[:2], is_prediction=True)
            found.append((number, key, _compute_checked(computer, work.pred, image, truth)))
        for number, key, path in work.features:
            computer = self.computers[number]
            image = prepare_image(read(path), computer.choice.prepare)
            found.append((number, key, _compute_checked(computer, path, image)))
        return found


def _compute_checked(
    computer: MetricFn, path: Path, *images: np.ndarray
) -> Float[np.ndarray, " d"]:
    try:
        value = np.atleast_1d(np.asarray(computer.function(*images)))
    except OmfaError as error:
        raise OmfaError(f"{path}: {error}") from None
    if not all(map(math.isfinite, value.tolist())):
        raise OmfaError(
            f"{path}: {computer.choice.label} is not finite: check the weights in"
            " --metric-weights and the image"
        )
    return value


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        # after an error, queued images would otherwise be computed to the end
        pool.shutdown(wait=True, cancel_futures=True)


def _map_bounded(
    pool: ThreadPoolExecutor, make, things: Iterable[MetricJob], count: int
) -> Iterator[list[FoundValue]]:
    """Yield the results in order, with at most `count` submitted and not yet yielded."""
    rest = iter(things)
    flying = collections.deque(pool.submit(make, thing) for thing in itertools.islice(rest, count))
    while flying:
        yield flying.popleft().result()
        flying.extend(pool.submit(make, thing) for thing in itertools.islice(rest, 1))


@contextlib.contextmanager
def limit_torch_threads(computers: list[MetricFn]) -> Iterator[None]:
    """Limit torch, if any metric uses it, to one CPU thread per image.

    More threads would split sums differently and change the last digits with the number of cores.
    """
    if not any(computer.identity["device"] for computer in computers):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
