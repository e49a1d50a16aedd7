"""One model on one split under one setting: its images, influence and exact-truth scores."""

import functools
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError, format_install_hint
from omfa_jax.core.images import read_rgb
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.pipeline.decode_record import Example
from omfa_jax.evals.exact_truth import ConditionRegions, ExactTruth
from omfa_jax.evals.file_matching import list_images
from omfa_jax.evals.influence import CONDITIONS, compute_gain, sample_derangement
from omfa_jax.evals.metrics.ssim import ssim
from omfa_jax.evals.prediction_sampling import SamplingJob
from omfa_jax.evals.protocols.omfa import SSIM
from omfa_jax.evals.psnr import psnr
from omfa_jax.evals.split_examples import EvalSplit

log = logging.getLogger(__name__)

PREDICTIONS = "pred"
# metrics of two images without a network: (image, truth, region) -> value, higher is better
Measure = Callable[..., float]


def _ssim(image: np.ndarray, truth: np.ndarray, region: np.ndarray | None) -> float:
    # over the full image: SSIM's windows reach across the border of a region
    return ssim(image, truth, SSIM.options)


MEASURES: dict[str, Measure] = {"psnr": psnr, "ssim": _ssim}


def get_installed_measures() -> dict[str, Measure]:
    """Return those of MEASURES whose libraries are installed; log a warning for SSIM."""
    if importlib.util.find_spec("skimage") is not None:
        return MEASURES
    log.warning("no SSIM: scikit-image is not installed (%s)", format_install_hint("eval"))
    return {name: measure for name, measure in MEASURES.items() if name != "ssim"}


@dataclass(frozen=True)
class SplitRun:
    """The images of one model on a split: `folder`/pred, other_CONDITION, truth_KIND.

    `sample(work)` writes the missing images, waits until those of all hosts are there, and returns
    how many this process wrote.
    """

    split: EvalSplit
    folder: AnyPath
    seed: int
    sample: Callable[[SamplingJob], int]

    def sample_predictions(
        self, name: str = PREDICTIONS, given: Callable[..., Example] | None = None
    ):
        """Sample the split into `folder`/`name`; `given` replaces the split's own examples."""
        split = self.split
        work = SamplingJob(
            self.folder / name,
            split.task,
            split.generated,
            split.names,
            given or split.get_inputs,
            split.get_size_px,
        )
        wrote = self.sample(work)
        log.info("%s: sampled %d of %d images in this run", work.folder, wrote, len(split))
        return work.folder

    def sample_swapped(self, condition: str) -> AnyPath:
        """Sample the split with another example's condition into other_CONDITION."""
        parts = CONDITIONS[self.split.task]
        if condition not in parts:
            raise OmfaError(
                f"task {self.split.task} has no condition {condition!r} (it has {', '.join(parts)})"
            )
        # the seed of the split: every condition swaps the same pairs of examples
        swap = sample_derangement(len(self.split), self.seed)

        def given(place: int) -> Example:
            other = int(swap[place])
            return self.split.get_inputs(place, dict.fromkeys(parts[condition], other))

        return self.sample_predictions(f"other_{condition}", given)

    def sample_truth_cases(self, truth: ExactTruth, kind: str) -> AnyPath:
        """Sample the examples with an exact answer in the synthetic data into truth_KIND."""
        split = self.split

        def given(place: int) -> Example:
            example = split.get_inputs(place)
            # the unpaired garment is in the record already; only a pose is new to it
            if kind == "new_pose":
                size = example["pose"].shape[:2]
                pose = truth.read_slot_pose(split.names[place], kind, size)  # type: ignore[arg-type]
                example |= {"pose": pose, "has_pose": np.bool_(True)}
            return example

        return self.sample_predictions(f"truth_{kind}", given)

    def compute_values(
        self,
        folder: AnyPath,
        metric: str,
        truths: Callable[[int], np.ndarray],
        regions: Callable[[int], np.ndarray | None] | None = None,
    ) -> list[float]:
        """Return the metric of each saved image, in the split's order."""
        measure = MEASURES[metric]
        return [
            measure(
                read_rgb(folder / f"{name}.png", "prediction"),
                truths(place),
                regions(place) if regions else None,
            )
            for place, name in enumerate(self.split.names)
        ]

    @functools.cached_property
    def _truth_files(self) -> Mapping[str, AnyPath]:
        return list_images(self.folder / "gt", "ground truth", "--out")

    def read_ground_truth(self, place: int) -> np.ndarray:
        """Return the ground truth that `EvalSplit.write_ground_truth` wrote."""
        return read_rgb(self._truth_files[self.split.names[place]], "ground truth")


def compute_influence(
    run: SplitRun,
    conditions: Sequence[str],
    *,
    metric: str = "psnr",
    regions: ConditionRegions | None = None,
    per_image: Callable[[AnyPath], tuple[Sequence[float], str]] | None = None,
) -> dict[str, Any]:
    """Return the scores file's influence block: pred/ against other_CONDITION/.

    PSNR is computed in the region that the condition determines, if `regions` are given; SSIM over
    the complete image. `per_image(folder)` returns (values, better) of any other metric, in the
    split's order.
    """
    block = {}
    for condition in conditions:
        folders = [run.folder / PREDICTIONS, run.folder / f"other_{condition}"]
        if per_image is not None:
            # both folders are scored by one function, so their direction is the same
            (right, better), (wrong, _) = map(per_image, folders)
            block[condition] = compute_gain(metric, better, right, wrong, seed=run.seed)
            continue
        where = None
        # regions are those of a person's photo; a generated garment counts as a whole
        if metric == "psnr" and regions is not None and run.split.generated == "person":
            where = functools.partial(_region, run, regions, condition)
        values = [
            run.compute_values(folder, metric, run.read_ground_truth, where) for folder in folders
        ]
        named = f"{condition} region" if where else "full image"
        block[condition] = compute_gain(metric, "higher", *values, seed=run.seed, region=named)
    return block


def compute_truth_scores(
    run: SplitRun, truth: ExactTruth, folders: Mapping[str, AnyPath]
) -> dict[str, Any]:
    """Return the scores file's truth block: PSNR and SSIM against the exact answers.

    `folders` are those of the `unpaired` and `new_pose` images.
    """
    block: dict[str, Any] = {}
    for kind, folder in folders.items():
        # read on every call: the images of a split do not fit in memory
        def exact(place: int, kind=kind) -> np.ndarray:
            return truth.read_answer(run.split.names[place], kind).image

        def worn(place: int, kind=kind) -> np.ndarray:
            return truth.read_answer(run.split.names[place], kind).garment

        found = {name: run.compute_values(folder, name, exact) for name in get_installed_measures()}
        found["psnr_garment_region"] = run.compute_values(folder, "psnr", exact, worn)
        means = {name: float(np.mean(values)) for name, values in found.items()}
        block[kind] = {**means, "count": len(run.split)}
    return block


def _region(
    run: SplitRun, regions: ConditionRegions, condition: str, place: int
) -> np.ndarray | None:
    named = run.split.examples[place]
    return regions.read_region(named.name, condition, named.category)
