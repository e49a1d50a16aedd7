"""What a sampler computes: encode, denoise and decode, as a function of parameters and images."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.denoising_loop import SamplerSettings, StepCallback, sample
from omfa_jax.models import Compute, decode_any_size, encode_any_size
from omfa_jax.models.reference_unet import cache_reference
from omfa_jax.weights.omfa_model import Model, make_apply_fn


class SamplerProgram:
    """The program that `Sampler` compiles; `model` may hold shapes in place of weights."""

    def __init__(
        self,
        model: Model,
        settings: SamplerSettings,
        compute: Compute,
        *,
        on_step: StepCallback | None = None,
    ):
        self.model = model
        self.settings = settings
        self._apply = make_apply_fn(model.settings, model.unet_config, compute)
        self._dtype = compute.dtype
        self._on_step = on_step

    def generate(
        self,
        params: Any,
        constants: Any,
        clean: dict[str, Array],
        pose: Array | None,
        has_pose: Array | None,
        row: Int[Array, ""],
        keys: Array,
        *,
        noised: tuple[bool, ...],
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Return the images, in [-1, 1], of the components `noised` of task number `row`.

        `keys` (b,) draw the noise; the other arguments are those of `Sampler.dispatch`.
        """
        model, count = self.model, len(keys)
        x0, pose_canvas, noise = self._encode(constants, clean, pose, has_pose, keys)
        mask: Bool[Array, "b 3"] = jnp.broadcast_to(jnp.asarray(noised), (count, len(noised)))
        prompts = constants["prompts"]
        result = sample(
            lambda x, t, prompt: self._apply(params, x, t, prompt, prompts),
            model.settings,
            self.settings,
            noise=noise,
            x0=x0,
            noised=mask,
            pose=pose_canvas,
            prompt=jnp.broadcast_to(row, (count,)),
            null_prompt=len(model.settings.tasks),
            prepare=cache_reference(self._apply, params, prompts),
            on_step=self._on_step,
        )
        assert not isinstance(result, tuple)
        return self._decode(constants, result, noised)

    def _encode(
        self,
        constants: Any,
        clean: dict[str, Array],
        pose: Array | None,
        has_pose: Array | None,
        keys: Array,
    ) -> tuple[Array, Array, Array]:
        """Return the canvases of the clean components, the pose and the noise."""
        model, canvas = self.model, self.model.settings.canvas
        count = len(keys)

        def encode_images(images):
            return encode_any_size(model.vae_config, constants["vae"], images, dtype=self._dtype)

        def assemble(parts):
            return canvas.assemble(parts) if parts else jnp.zeros((count, *canvas.shape))

        x0 = assemble({name: encode_images(images) for name, images in clean.items()})
        pose_canvas = assemble({} if pose is None else {"person": encode_images(pose)})
        # the null pose is a zero latent, which no image encodes to
        if has_pose is not None:
            pose_canvas = jnp.where(has_pose[:, None, None, None], pose_canvas, 0.0)
        # over the full canvas, whatever the task noises: tasks share a seed's noise
        noise = jax.vmap(lambda k: jax.random.normal(k, canvas.shape))(keys)
        return x0, pose_canvas, noise

    def _decode(
        self, constants: Any, result: Array, noised: tuple[bool, ...]
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Return the images of the generated components of a canvas."""
        model, canvas = self.model, self.model.settings.canvas
        # the clean components are known as images, so they are not decoded
        parts = canvas.split(result)
        return {
            name: decode_any_size(
                model.vae_config, constants["vae"], parts[name], dtype=self._dtype
            )
            for name, flag in zip(COMPONENTS, noised, strict=True)
            if flag
        }
