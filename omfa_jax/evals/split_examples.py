"""The examples of a split under an evaluation setting: model inputs and ground truth."""

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.image_formats import FORMAT_SUFFIXES
from omfa_jax.core.images import open_rgb
from omfa_jax.core.name_lists import format_list_line
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.pipeline.decode_record import Example, convert_to_arrays
from omfa_jax.data.pipeline.example_reader import open_example_reader
from omfa_jax.data.pipeline.settings import PipelineSettings, make_eval_settings
from omfa_jax.data.records.pose_groups import load_groups
from omfa_jax.data.records.record_schema import Record
from omfa_jax.evals.scores_file import SETTINGS

# setting -> task, and task -> the component that it generates
TASKS = {"paired": "try_on", "unpaired": "try_on", "multi_pose": "try_on", "try_off": "try_off"}
GENERATED = {"try_on": "person", "try_off": "garment"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleInfo:
    """An example without its images; `index` is the index of its record.

    `garment` names the garment that is put on. `source_index` is the index of the record that
    garment and face are taken from: another one in "multi_pose", otherwise the example's own.
    """

    index: int
    name: str
    garment: str
    category: str
    source_index: int


class EvalSplit:
    """The examples of one split under one setting, in the order of the records."""

    def __init__(
        self,
        settings: PipelineSettings,
        split: str,
        setting: str,
        *,
        limit: int | None = None,
        seed: int = 0,
    ):
        if setting not in SETTINGS:
            raise make_unknown_name_error("setting (--setting)", setting, SETTINGS)
        self.setting, self.name = setting, split
        self._asked = (settings, limit, seed)
        self.task = TASKS[setting]
        self.generated = GENERATED[self.task]
        self._folder = open_example_reader(make_eval_settings(settings), split)
        if self._folder.kind == "latents":
            raise OmfaError(
                f"{settings.records} holds latents, but sampling and scoring need images: give the"
                " image records to --data (latents are enough for --loss only)"
            )
        self.examples = self._list_examples(settings, limit, seed)

    def take(self, count: int) -> "EvalSplit":
        """Return the split's first examples."""
        settings, _, seed = self._asked
        return EvalSplit(settings, self.name, self.setting, limit=count, seed=seed)

    def with_setting(self, setting: str) -> "EvalSplit":
        """Return the same split under another setting."""
        settings, limit, seed = self._asked
        return EvalSplit(settings, self.name, setting, limit=limit, seed=seed)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def names(self) -> list[str]:
        """The names of the examples, which are also their file names."""
        return [example.name for example in self.examples]

    def get_record(self, place: int) -> Record:
        """Return the record of example `place`, with its encoded images."""
        return self._folder.records[self.examples[place].index]

    def get_inputs(self, place: int, swapped: Mapping[str, int] | None = None) -> Example:
        """Return the uint8 images at the slot sizes, and has_pose, of example `place`.

        `swapped` takes components or the pose map from other examples, e.g. {"garment": place}.
        """
        named = self.examples[place]
        worn = (
            None if named.source_index == named.index else self._folder.records[named.source_index]
        )
        example = convert_to_arrays(
            self._folder.decode(
                self.get_record(place), worn=worn, unpaired=self.setting == "unpaired"
            )
        )
        for component, other in (swapped or {}).items():
            theirs = self.get_inputs(other)
            # a pose map without its flag would be ignored, or a missing one used
            parts = (component, "has_pose") if component == "pose" else (component,)
            example |= {part: theirs[part] for part in parts}
        return example

    def get_size_px(self, place: int) -> tuple[int, int]:
        """Return (height, width) of the ground truth, at which predictions are written."""
        record = self.get_record(place)
        if self.generated == "person":
            return record.height_px, record.width_px
        garment = open_rgb(record.garment, f"garment of {record.key}")
        return garment.height, garment.width

    def write_ground_truth(self, folder: AnyPath) -> None:
        """Write gt/, garments/ and pairs.txt in the form that `omfa eval` reads.

        Images are the encoded bytes of the records; existing files are kept. try_off has no
        garments/, because its garments are the ground truth.
        """
        # pairs.txt comes first: --overwrite deletes only the images that it names
        lines = [
            format_list_line(f"{e.name}.png", f"{e.garment}.png", e.category) for e in self.examples
        ]
        with atomic_write(folder / "pairs.txt") as temporary:
            temporary.write_text("\n".join(lines) + "\n")
        for place, named in enumerate(self.examples):
            record, wearer = self.get_record(place), self._folder.records[named.source_index]
            shop = record.unpaired_garment if self.setting == "unpaired" else wearer.garment
            truth = record.person if self.generated == "person" else record.garment
            _write_encoded(folder / "gt", named.name, truth)
            if self.generated == "person":
                _write_encoded(folder / "garments", named.garment, shop)

    def _list_examples(
        self, settings: PipelineSettings, limit: int | None, seed: int
    ) -> list[ExampleInfo]:
        records = self._folder.records
        groups = load_groups(settings.records, self.name) if self.setting == "multi_pose" else None
        found: list[ExampleInfo] = []
        keys: dict[str, str] = {}
        lacking = 0
        for index in range(len(records)):
            if limit is not None and len(found) == limit:
                break
            wearer = index
            if groups is not None:
                # seeded by the record, so that --limit does not change the partners
                wearer = groups.sample_partner(index, np.random.default_rng((seed, index)))
                if wearer == index:
                    continue
            record = records[index]
            worn = record if wearer == index else records[wearer]
            if self.setting != "unpaired" and not worn.garment:
                lacking += 1
                continue
            garment = record.unpaired_garment_key if self.setting == "unpaired" else worn.key
            if not garment:
                raise OmfaError(
                    f"{settings.records}: {record.key} has no unpaired garment; --setting unpaired"
                    " needs records built from a raw folder with a pairs file"
                )
            name = to_file_name(record.key)
            if name in keys:
                raise OmfaError(
                    f"{settings.records}: records {keys[name]} and {record.key} of split"
                    f" {self.name!r} would both be written to {name}.png; rename one in the raw"
                    " folder and build the records again"
                )
            keys[name] = record.key
            found.append(ExampleInfo(index, name, to_file_name(garment), record.category, wearer))
        if lacking:
            log.warning(
                "%s: %d records of split %r have no garment of their own: left out of --setting %s",
                settings.records,
                lacking,
                self.name,
                self.setting,
            )
        if not found:
            why = "group (same person and outfit) with two records or more"
            needed = why if self.setting == "multi_pose" else "records"
            needed += " with a garment of their own" * bool(lacking)
            raise OmfaError(f"{settings.records}: split {self.name!r} has no {needed}")
        return found


def to_file_name(key: str) -> str:
    """Return a record's key as a file name."""
    return key.replace("/", "_")


def _write_encoded(folder: AnyPath, name: str, encoded: bytes) -> None:
    with Image.open(io.BytesIO(encoded)) as image:
        suffix = FORMAT_SUFFIXES.get(image.format or "", ".png")
    path = folder / f"{name}{suffix}"
    # kept on a restart: the bytes are a function of the record
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded)
