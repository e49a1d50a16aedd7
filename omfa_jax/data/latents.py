"""VAE latents of a records folder, written once so that training need not encode.

A latents folder has the same manifest, splits, keys and order as the image records it was made
from; `make_dataset` reads either.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32
from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_dir
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data import schema
from omfa_jax.data.build import prepare, require_free
from omfa_jax.data.decode import Slots
from omfa_jax.data.pipeline import PipelineSettings, eval_batches

Encode = Callable[[Float32[np.ndarray, "b H W 3"]], Float32[np.ndarray, "b h w c"]]

PICTURES = (*COMPONENTS, "pose")
FLOAT16_MAX = 65504.0


class LatentsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder that encodes the splits it is given; `shapes` fills up as it goes."""

    name = "latents"
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def __init__(self, *, batches: Mapping[str, tuple[int, Iterator]], encode: Encode, **options):
        self.shapes: dict[str, list[int]] = {}
        self._batches = batches
        self._encode = encode
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=schema.features("latents"), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._batches}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        count, batches = self._batches[split]
        with tqdm(total=count, desc=f"{split} latents", unit="record", disable=None) as bar:
            for batch in batches:
                encoded = {name: self._encoded(name, batch[name]) for name in PICTURES}
                for row in np.flatnonzero(batch["valid"]):
                    has_pose = bool(batch["has_pose"][row])
                    arrays = {name: latents[row].tobytes() for name, latents in encoded.items()}
                    if not has_pose:
                        arrays["pose"] = b""
                    key = str(batch["key"][row])
                    group = str(batch["group"][row])
                    record = schema.LatentRecord(key=key, has_pose=has_pose, group=group, **arrays)
                    yield int(batch["index"][row]), schema.to_example(record)
                bar.update(int(batch["valid"].sum()))

    def _encoded(self, name: str, pictures: np.ndarray) -> np.ndarray:
        latents = np.asarray(self._encode(pictures))
        fits = bool((np.abs(latents) <= FLOAT16_MAX).all())
        if latents.ndim != 4 or len(latents) != len(pictures) or not fits:
            came = f"{latents.shape} with values up to {np.abs(latents).max():.3g}"
            raise OmfaError(f"encoding {name}: expected float16-sized (b, h, w, c), got {came}")
        shape = list(latents.shape[1:])
        if self.shapes.setdefault(name, shape) != shape:
            raise OmfaError(f"encoding {name}: shape {shape} after {self.shapes[name]}")
        return latents.astype("<f2")


def write_latents(
    records_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    encode: Encode,
    *,
    slots: Slots,
    vae_id: str,
    batch_size: int = 8,
    splits: Sequence[str] | None = None,
    overwrite: bool = False,
    threads: int = 4,
) -> dict[str, Any]:
    """Write the latents of every record's garment, person, face and pose map; return the manifest.

    `encode` takes (b, H, W, 3) float32 in [-1, 1] at a slot's size, always `batch_size` pictures,
    and returns (b, h, w, c), stored as float16. `vae_id` names the VAE: training refuses latents
    of another. `splits`: None means all. The folder is whole or absent. Raises OmfaError if the
    records cannot be read, `out_dir` is taken, or the latents are not finite or change shape.
    """
    manifest = schema.read_manifest(records_dir)
    if manifest["kind"] != "images":
        raise OmfaError(f"{records_dir} holds latents already; give the image records")
    settings = PipelineSettings(os.fspath(records_dir), slots, threads=threads)
    replaced = require_free(out_dir, overwrite)
    batches = {}
    for split in manifest["splits"] if splits is None else splits:
        count = len(schema.open_records(records_dir, split))
        batches[split] = count, eval_batches(settings, split=split, batch_size=batch_size)
    with atomic_dir(out_dir, replaced) as folder:
        builder = LatentsBuilder(
            batches=batches, encode=encode, data_dir=folder, file_format="array_record"
        )
        prepare(builder)
        facts = {
            "vae_id": vae_id,
            "slots": {name: list(slots[name]) for name in COMPONENTS},
            "shapes": builder.shapes,
            "stride": slots["person"][0] // builder.shapes["person"][0],
            "channels": builder.shapes["person"][2],
        }
        counts = {split: count for split, (count, _) in batches.items()}
        place = str(builder.data_path.relative_to(folder))
        schema.write_manifest(
            folder,
            "latents",
            place,
            splits=counts,
            pose_style=manifest.get("pose_style"),
            latents=facts,
        )
    return schema.read_manifest(out_dir)
