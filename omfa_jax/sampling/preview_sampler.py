"""A sampler that shows the clean estimate every few steps, and compiles for no setting anew."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.core.images import from_signed
from omfa_jax.diffusion.denoising_loop import (
    SamplerSettings,
    SamplerState,
    advance,
    make_sampler_plan,
)
from omfa_jax.diffusion.partial import keep_clean
from omfa_jax.diffusion.samplers import SamplerSteps
from omfa_jax.models.reference_unet import cache_reference
from omfa_jax.sampling.sampler import GeneratedImages, Sampler
from omfa_jax.weights.omfa_model import Model

# tables are padded to a multiple of this, so that most step counts share one program
TABLE_ROWS = 256

# called with the steps that are done, their number, and the estimate's images
PreviewCallback = Callable[[int, int, GeneratedImages], None]


class PreviewSampler(Sampler):
    """Generates what `Sampler` generates, and reports the clean estimate between a few steps.

    The loop runs in about `previews` parts of equal length; after each but the last, `on_preview`
    gets the number of steps done, the number of all steps, and the images that the estimate x0_hat
    decodes to. It may raise to end the call. `settings` and `on_preview` may be replaced between
    calls: only a guidance of 1, the rescale factor and a table of more rows compile anew. One
    device. Raises OmfaError as `Sampler` does.

        sampler = PreviewSampler(model, SamplerSettings(steps=20))
        sampler.on_preview = lambda done, steps, images: show(images["person"])
    """

    def __init__(
        self, model: Model, settings: SamplerSettings, *, dtype: str = "auto", previews: int = 5
    ):
        super().__init__(model, settings, dtype=dtype)
        self.on_preview: PreviewCallback | None = None
        self._previews = previews
        self._begin = jax.jit(self._begin_call, static_argnames="noised")
        self._advance = jax.jit(self._advance_call, static_argnames=("noised", "fixed", "rescale"))
        self._finish = jax.jit(self._decode, static_argnames="noised")
        self._run: Any = self._run_in_parts

    def change_settings(self, settings: SamplerSettings) -> None:
        """Use other settings from the next call on; OmfaError as in the constructor."""
        make_sampler_plan(self.model.settings, settings)
        self.settings = settings

    def _run_in_parts(self, params, constants, clean, pose, has_pose, row, keys, *, noised):
        settings = self.settings
        plan = make_sampler_plan(self.model.settings, settings)
        steps = settings.steps
        table = jax.tree.map(lambda v: pad(v, -(-steps // TABLE_ROWS) * TABLE_ROWS), plan.steps)
        x0, pose_canvas, state = self._begin(
            constants, clean, pose, has_pose, keys, plan.init_noise_sigma, noised=noised
        )
        guided = settings.guidance != 1
        bounds = np.linspace(0, steps, min(self._previews, steps) + 1).round().astype(int)
        for first, last in itertools.pairwise(bounds):
            state = self._advance(
                *(params, constants["prompts"], state, table, jnp.int32(first), jnp.int32(last)),
                *(jnp.float32(settings.guidance), x0, pose_canvas, row),
                noised=noised,
                fixed=None if guided else 1.0,
                rescale=settings.guidance_rescale,
            )
            if last < steps and self.on_preview is not None:
                shown = self._finish(constants, state[1], noised=noised)
                images = {name: from_signed(np.asarray(image)) for name, image in shown.items()}
                self.on_preview(int(last), steps, images)
        return self._finish(constants, state[0], noised=noised)

    def _begin_call(
        self, constants, clean, pose, has_pose, keys, sigma, *, noised: tuple[bool, ...]
    ) -> tuple[Array, Array, SamplerState]:
        x0, pose_canvas, noise = self._encode(constants, clean, pose, has_pose, keys)
        mask = self.model.settings.canvas.make_mask(make_rows(noised, len(keys)))
        return x0, pose_canvas, (keep_clean(mask, sigma * noise, x0), jnp.zeros_like(x0))

    def _advance_call(
        self,
        params: Any,
        prompts: Any,
        state: SamplerState,
        table: SamplerSteps,
        first: Int[Array, ""],
        last: Int[Array, ""],
        guidance: Float[Array, ""],
        x0: Array,
        pose: Array,
        row: Int[Array, ""],
        *,
        noised: tuple[bool, ...],
        fixed: float | None,
        rescale: float,
    ) -> SamplerState:
        return advance(
            lambda x, t, prompt: self._apply(params, x, t, prompt, prompts),
            self.model.settings,
            guidance if fixed is None else fixed,
            rescale,
            *(table, first, last, state),
            x0=x0,
            noised=make_rows(noised, len(x0)),
            pose=pose,
            prompt=jnp.broadcast_to(row, (len(x0),)),
            null_prompt=len(self.model.settings.tasks),
            prepare=cache_reference(self._apply, params, prompts),
        )


def make_rows(noised: tuple[bool, ...], count: int) -> Bool[Array, "b 3"]:
    """Return the same row of noised components for every example."""
    return jnp.broadcast_to(jnp.asarray(noised), (count, len(noised)))


def pad(values: np.ndarray, rows: int) -> np.ndarray:
    """Return a column of a table with zeros behind it, up to so many rows."""
    return np.concatenate([values, np.zeros(rows - len(values), values.dtype)])
