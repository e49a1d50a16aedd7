"""Sample pictures during training: a fixed few held-out examples for every task."""

from collections.abc import Mapping

import numpy as np

from omfa_jax.cli import config as border
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline import PipelineSettings, eval_batches
from omfa_jax.data.schema import read_manifest
from omfa_jax.parallel.feed import to_host
from omfa_jax.sampling.generate import Sampler
from omfa_jax.sampling.sheet import sheet
from omfa_jax.train.loop import Pictures
from omfa_jax.train.state import TrainState
from omfa_jax.weights.bundle import Bundle


def training_pictures(config: border.Config, bundle: Bundle) -> Pictures:
    """Return the loop's picture function: one sheet a task.

    The examples are the first of the validation split (or of the training split, when there is
    no other); they need image records, whatever the training reads.
    """
    if not config.data.records:
        raise OmfaError(
            "sample pictures need image records beside the latents: give --config.data.records=DIR"
            " or --config.log.samples_every_steps=0"
        )
    slots = {name: tuple(config.canvas[name]) for name in COMPONENTS}
    pipeline = PipelineSettings(config.data.records, slots, threads=0)
    splits = read_manifest(config.data.records)["splits"]
    split = "val" if "val" in splits else config.data.split
    count = config.log.samples
    batch = next(iter(eval_batches(pipeline, split=split, batch_size=count, limit=count)))
    sampler = Sampler(
        bundle.with_unet({}),
        border.sampler_settings(config),
        dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )
    size = slots["person"]

    def pictures(state: TrainState, step: int) -> Mapping[str, np.ndarray]:
        params = to_host(state.params if state.ema is None else state.ema)
        sheets = {}
        for task in bundle.settings.tasks:
            made = sampler(
                task.name,
                batch,
                batch["pose"],
                seed=config.seed,
                has_pose=batch["has_pose"],
                params=params,
            )
            shown = {name: list(from_signed(batch[name])) for name in (*COMPONENTS, "pose")}
            shown |= {f"{name} ({task.name})": list(images) for name, images in made.items()}
            sheets[task.name] = sheet(shown, *size)
        return sheets

    return pictures
