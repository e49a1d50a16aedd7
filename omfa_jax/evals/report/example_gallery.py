"""The examples that a report shows: which ones, and their images, found by name and downscaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.core.images import read_rgb, resize
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.data.builders.raw_files import read_pair_list
from omfa_jax.evals.report.html_page import Figure
from omfa_jax.evals.scores_file import Scores

# without a metric on the command line, the first of these that the files have is used
PREFERRED_METRICS = ("judge", "lpips", "dists", "ssim", "psnr")
TRUTH = {"unpaired": "person, own garment", "try_off": "true garment"}


@dataclass(frozen=True)
class GallerySettings:
    """Metrics to rank by (default: the first of PREFERRED_METRICS), examples per kind, height."""

    metrics: tuple[str, ...] = ()
    count: int = 3
    height_px: int = 320


@dataclass(frozen=True)
class GalleryExample:
    """Why an example is shown ("worst", "best", "differ") and its name."""

    kind: str
    name: str


def choose_metrics(groups: Sequence[Sequence[Scores]], asked: Sequence[str]) -> list[list[str]]:
    """Return each group's metrics to rank by; OmfaError for one that no file has per image.

    A group may have none: FID and KID, all there is for many unpaired images, are not per image.
    """
    known = [_find_per_image_metrics(group) for group in groups]
    for name in asked:
        if not any(name in names for names in known):
            every = dict.fromkeys(name for names in known for name in names)
            raise make_unknown_name_error("per-image metric (--examples-by)", name, list(every))
    if asked:
        return [[name for name in asked if name in names] for names in known]
    return [
        [name for name in dict.fromkeys((*PREFERRED_METRICS, *names)) if name in names][:1]
        for names in known
    ]


def _find_per_image_metrics(group: Sequence[Scores]) -> list[str]:
    return list(
        dict.fromkeys(
            name
            for one in group
            for name, column in one.per_image.values.items()
            if name in one.metrics and any(value is not None for value in column)
        )
    )


def choose_examples(group: Sequence[Scores], metric: str, count: int) -> list[GalleryExample]:
    """Return the worst and best examples by the mean over methods, and the most different ones.

    Only examples with a value from every method that has the metric are considered, each once.
    """
    # a method without this metric must not exclude every example
    tables = [values for one in group if (values := get_values(one, metric))]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    better = next(one.metrics[metric].better for one in group if metric in one.metrics)
    sign = 1 if better == "higher" else -1
    found = {name: [table[name] for table in tables] for name in names}
    # the name breaks ties, so that the choice does not depend on the file order
    order = sorted(names, key=lambda name: (sign * float(np.mean(found[name])), name))
    # with few examples, best and worst must not overlap
    count = max(1, min(count, len(order) // 2))
    worst = order[:count]
    best = [name for name in reversed(order[-count:]) if name not in worst]
    chosen = [GalleryExample("worst", name) for name in worst] + [
        GalleryExample("best", name) for name in best
    ]
    if len(tables) > 1:
        rest = [name for name in order if name not in (*worst, *best)]
        rest.sort(key=lambda name: (-float(np.ptp(found[name])), name))
        chosen += [GalleryExample("differ", name) for name in rest[:count]]
    return chosen


def get_values(scores: Scores, metric: str) -> dict[str, float]:
    """Return the metric's values by image name, in the scale of the metric."""
    rows = scores.per_image
    if metric not in rows.values or metric not in scores.metrics:
        return {}
    scale = scores.metrics[metric].scale
    column = zip(rows.names, rows.values[metric], strict=True)
    return {name: value * scale for name, value in column if value is not None}


class ExampleImages:
    """The images of one method (generated, ground truth and garment), by example name.

    Folders are looked up as the scores file names them and, if relative, next to the file too
    (`beside`). Anything missing is listed once in `notes`.
    """

    def __init__(self, scores: Scores, beside: AnyPath, height_px: int) -> None:
        self.scores, self.beside, self.height_px = scores, beside, height_px
        self.notes: list[str] = []
        folders = scores.folders
        self._folders = {
            "pred": self._folder("predictions", folders.pred),
            "gt": self._folder("ground truth", folders.gt),
            "garments": folders.garments and self._folder("garments", folders.garments),
        }
        self._stems: dict[AnyPath, dict[str, AnyPath]] = {}
        self._pairs = self._read_pairs(folders.pairs)

    def _list_places(self, name: str) -> list[AnyPath]:
        path = to_path(name)
        return [path] if path.is_absolute() else [path, self.beside / name]

    def _folder(self, what: str, folder: str) -> AnyPath | None:
        # as seen from the working directory of `omfa eval`, or moved together with the scores file
        for path in self._list_places(folder):
            if path.is_dir():
                return path
        self.notes.append(f"{self.scores.method}: the folder of {what} is missing: {folder}")
        return None

    def _read_pairs(self, file: str | None) -> list[tuple[str, str]]:
        """Return person and garment of each line of the pairs file, without suffix."""
        if file is None:
            return []
        for path in self._list_places(file):
            if path.is_file():
                try:
                    rows = read_pair_list(path, "the pairs file")
                except OmfaError as error:
                    self.notes.append(f"{self.scores.method}: {error}")
                    return []
                return [(Path(row.person).stem, Path(row.garment).stem) for row in rows]
        self.notes.append(f"{self.scores.method}: the pairs file is missing: {file}")
        return []

    def read_image(self, kind: str, name: str) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the "pred", "gt" or "garments" image of an example, None if it is missing."""
        folder = self._folders[kind]
        paths = (folder and self._find(folder, other) for other in self._names(kind, name))
        path = next((path for path in paths if path), None)
        if path is None:
            return None
        try:
            image = read_rgb(path)
        except OmfaError as error:
            self.notes.append(f"{self.scores.method}: {error}")
            return None
        # never enlarged: it would suggest a higher resolution than the image has
        height = min(self.height_px, image.shape[0])
        return resize(image, height, max(1, round(image.shape[1] * height / image.shape[0])))

    def _names(self, kind: str, name: str) -> list[str]:
        """Return the names that an example's image of a kind may have, most likely first.

        A prediction has the example's name. In the pairs file that is the person's name, or a name
        that contains the person's and possibly the garment's (`--pred-name`).
        """
        # 00001 is also a part of 100001: an exact name comes first
        exact = [row for row in self._pairs if row[0] == name]
        held = [row for row in self._pairs if row[0] in name]
        both = [row for row in held if row[1] in name]
        person, garment = next(iter((*exact, *both, *held)), (name, name))
        orders = {"pred": [name], "gt": [name, person, garment], "garments": [garment, name]}
        return orders[kind]

    def has_folder(self, kind: str) -> bool:
        """Whether the folder exists."""
        return bool(self._folders[kind])

    def _find(self, folder: AnyPath, name: str) -> AnyPath | None:
        if folder not in self._stems:
            paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in READ_SUFFIXES)
            self._stems[folder] = {path.stem: path for path in paths}
        return self._stems[folder].get(name)


def make_figures(
    example: GalleryExample, metric: str, group: Sequence[Scores], pictures: Sequence[ExampleImages]
) -> list[Figure]:
    """Return garment, ground truth, and every method's image of one example with its value."""
    setting = group[0].protocol.setting
    row = []
    for kind, caption in (("garments", "garment"), ("gt", TRUTH.get(setting, "ground truth"))):
        holders = [one for one in pictures if one.has_folder(kind)]
        found = (one.read_image(kind, example.name) for one in holders)
        image = next((image for image in found if image is not None), None)
        if holders or kind == "gt":
            row.append(Figure(caption, image, absent=f"no {caption}"))
    for scores, source in zip(group, pictures, strict=True):
        value = get_values(scores, metric).get(example.name)
        label = scores.metrics[metric].label if metric in scores.metrics else metric
        below = f"{label}: {'none' if value is None else f'{value:#.4g}'}"
        reason = _reason(scores, example.name) if metric == "judge" else ""
        image = source.read_image("pred", example.name)
        row.append(Figure(scores.method, image, f"{below}{reason}", "no image"))
    return row


def _reason(scores: Scores, name: str) -> str:
    reasons = scores.judge["reasons"] if scores.judge and "reasons" in scores.judge else {}
    return f" - {reasons[name]}" if name in reasons else ""
