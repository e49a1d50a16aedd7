"""Read the examples of one records folder by record number."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.data import schema
from omfa_jax.data.augment import Augmentation, draw
from omfa_jax.data.decode import STILL, Fitted, check_latents, decode_latents, fitted_record
from omfa_jax.data.mirror import check_mirrors
from omfa_jax.data.pairing import Groups, read_groups
from omfa_jax.data.settings import PipelineSettings

# Names of a position's random streams. Each draw has its own stream, so that switching one feature
# on does not change the draws of the others; the task has the stream (seed, position).
PAIRING, AUGMENTING, ENCODING = 1, 2, 3


@dataclass(frozen=True)
class RecordsFolder:
    """One opened records folder; picklable for worker processes.

    `shapes`: (h, w, c) of each latent, None for image records. `groups`: None without pairing.
    """

    kind: schema.Kind
    records: schema.RecordSource
    settings: PipelineSettings
    shapes: dict[str, list[int]] | None
    groups: Groups | None
    pose_style: str

    def training_example(self, index: int, seed: int, position: int) -> Fitted:
        """Return the record's example, paired and augmented by the position's random streams."""
        worn, change = None, STILL
        if self.groups is not None:
            rng = np.random.default_rng((seed, position, PAIRING))
            if rng.random() < self.settings.multi_pose_prob:
                partner = self.groups.partner(index, rng)
                worn = None if partner == index else self.records[partner]
        if self.settings.augment.active:
            rng = np.random.default_rng((seed, position, AUGMENTING))
            change = draw(self.settings.augment, rng)
        rng = None
        if self.settings.sample_latents:
            rng = np.random.default_rng((seed, position, ENCODING))
        return self.decoded(self.records[index], worn=worn, change=change, rng=rng)

    def decoded(
        self,
        record: Any,
        *,
        worn: Any = None,
        change: Augmentation = STILL,
        rng: np.random.Generator | None = None,
        unpaired: bool = False,
    ) -> Fitted:
        """Return the record's example; `worn`: another record to take garment and face from."""
        if self.shapes is not None:
            return {**decode_latents(record, self.shapes, garment_of=worn, rng=rng)}
        return fitted_record(
            record,
            self.settings.slots,
            garment_of=worn,
            change=change,
            pose_style=self.pose_style,
            unpaired=unpaired,
        )


def open_folder(settings: PipelineSettings, split: str) -> RecordsFolder:
    """Open `settings.records`; OmfaError if its records do not match the settings."""
    folder = settings.records
    manifest = schema.read_manifest(folder)
    kind, shapes = manifest["kind"], None
    records = schema.open_records(folder, split)
    drawn = manifest.get("pose_style")
    if drawn and settings.pose_style and drawn != settings.pose_style:
        raise OmfaError(
            f"{folder}: expected pose maps of style {settings.pose_style!r}, found {drawn!r};"
            " change config.data.pose_style, or run `omfa data poses --style` and build again"
        )
    if kind == "latents":
        check_latents(folder, settings.slots, settings.vae_id, manifest["latents"])
        shapes = manifest["latents"]["shapes"]
        if settings.augment.active:
            raise OmfaError(
                f"{folder} holds latents, which cannot be augmented: train on image records"
                " (config.data.records), or set all of config.data.augment to the defaults"
            )
    style = drawn or settings.pose_style
    if settings.augment.flip_prob:
        check_mirrors(style, folder)
    groups = read_groups(folder, split) if settings.multi_pose_prob else None
    return RecordsFolder(kind, records, settings, shapes, groups, style)
