"""Sample images during training: a few fixed held-out examples for every task."""

from collections.abc import Mapping

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_eval_iterator
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.parallel.global_arrays import gather_to_host
from omfa_jax.sampling.image_sheet import draw_sheet
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.train.loop import DrawImages
from omfa_jax.train.state import TrainState
from omfa_jax.weights.omfa_model import Model


def make_training_images(
    model: Model,
    settings: SamplerSettings,
    *,
    records: str,
    split: str,
    count: int,
    seed: int,
    dtype: str,
    attention: str,
) -> DrawImages:
    """Return the loop's image function: one sheet of `count` examples per task.

    The examples are the first of the validation split, or of `split` if there is none. They are
    read from image records, even if the training reads latents.
    """
    if not records:
        raise OmfaError(
            "sample images need image records in addition to latents:"
            " give --config.data.records=DIR"
            " or --config.log.samples_every_steps=0"
        )
    slots = dict(zip(COMPONENTS, model.settings.slots_px, strict=True))
    pipeline = PipelineSettings(records, slots, threads=0)
    splits = read_manifest(records)["splits"]
    found = "val" if "val" in splits else split
    # read once: the same people at every step show the progress
    batch = next(iter(make_eval_iterator(pipeline, split=found, batch_size=count, limit=count)))
    # the parameters come with each call; those of the start would take memory for the whole run
    sampler = Sampler(model.with_unet({}), settings, dtype=dtype, attention=attention)
    size = slots["person"]

    def draw_sheets(state: TrainState, step: int) -> Mapping[str, np.ndarray]:
        # a collective: every process must call it, though only one writes the images
        params = gather_to_host(state.params if state.ema is None else state.ema)
        sheets = {}
        for task in model.settings.tasks:
            made = sampler(
                task.name,
                batch,
                batch["pose"],
                seed=seed,
                has_pose=batch["has_pose"],
                params=params,
            )
            columns = {name: list(from_signed(batch[name])) for name in (*COMPONENTS, "pose")}
            columns |= {f"{name} ({task.name})": list(images) for name, images in made.items()}
            sheets[task.name] = draw_sheet(columns, *size)
        return sheets

    return draw_sheets
