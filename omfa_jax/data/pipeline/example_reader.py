"""Read the examples of one records folder by record number."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.pipeline.augment import Augmentation, sample_augmentation
from omfa_jax.data.pipeline.decode_record import (
    NO_AUGMENTATION,
    PilExample,
    check_latents,
    decode_latents,
    decode_to_pil,
)
from omfa_jax.data.pipeline.pose_flip import require_flippable
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.pose_groups import PoseGroups, load_groups

# Names of a position's random streams. Each draw has its own stream, so that switching one feature
# on does not change the draws of the others; the task has the stream (seed, position).
PAIRING, AUGMENTING, ENCODING = 1, 2, 3


@dataclass(frozen=True)
class ExampleReader:
    """One opened records folder; picklable for worker processes.

    `shapes`: (h, w, c) of each latent, None for image records. `groups`: None without pairing.
    """

    kind: record_schema.Kind
    records: record_schema.RecordSource
    settings: PipelineSettings
    shapes: dict[str, list[int]] | None
    groups: PoseGroups | None
    pose_style: str

    def read_training_example(self, index: int, seed: int, position: int) -> PilExample:
        """Return the record's example, paired and augmented by the position's random streams."""
        worn, change = None, NO_AUGMENTATION
        if self.groups is not None:
            rng = np.random.default_rng((seed, position, PAIRING))
            if rng.random() < self.settings.multi_pose_prob:
                partner = self.groups.sample_partner(index, rng)
                # a record that is its own partner need not be read twice
                worn = None if partner == index else self.records[partner]
        if self.settings.augment.active:
            rng = np.random.default_rng((seed, position, AUGMENTING))
            change = sample_augmentation(self.settings.augment, rng)
        rng = None
        if self.settings.sample_latents:
            rng = np.random.default_rng((seed, position, ENCODING))
        return self.decode(self.records[index], worn=worn, change=change, rng=rng)

    def decode(
        self,
        record: Any,
        *,
        worn: Any = None,
        change: Augmentation = NO_AUGMENTATION,
        rng: np.random.Generator | None = None,
        unpaired: bool = False,
    ) -> PilExample:
        """Return the record's example; `worn`: another record to take garment and face from."""
        if self.shapes is not None:
            return {**decode_latents(record, self.shapes, garment_of=worn, rng=rng)}
        return decode_to_pil(
            record,
            self.settings.slots,
            garment_of=worn,
            change=change,
            pose_style=self.pose_style,
            unpaired=unpaired,
        )


def require_pose_style(folder: str | os.PathLike, manifest: Mapping[str, Any], style: str) -> None:
    """Raise an OmfaError if a records folder's pose maps have another style than `style`.

    Records whose maps say no style pass, and so does the style "".
    """
    drawn = manifest.get("pose_style")
    if drawn and style and drawn != style:
        raise OmfaError(
            f"{folder}: expected pose maps of style {style!r}, found {drawn!r}; change"
            " config.data.pose_style, or run `omfa data poses --style` and build again"
        )


def open_example_reader(settings: PipelineSettings, split: str) -> ExampleReader:
    """Open `settings.records`; OmfaError if its records do not match the settings."""
    folder = settings.records
    manifest = record_schema.read_manifest(folder)
    kind, shapes = manifest["kind"], None
    records = record_schema.open_records(folder, split)
    require_pose_style(folder, manifest, settings.pose_style)
    if kind == "latents":
        check_latents(folder, settings.slots, settings.vae_id, manifest["latents"])
        shapes = manifest["latents"]["shapes"]
        if settings.augment.active:
            raise OmfaError(
                f"{folder} holds latents, which cannot be augmented: train on image records"
                " (config.data.records), or set all of config.data.augment to the defaults"
            )
    style = manifest.get("pose_style") or settings.pose_style
    if settings.augment.flip_prob:
        require_flippable(style, folder)
    groups = load_groups(folder, split) if settings.multi_pose_prob else None
    return ExampleReader(kind, records, settings, shapes, groups, style)
