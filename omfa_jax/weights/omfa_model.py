"""A complete model: diffusion settings, network configs and parameters, and the prompt table."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.packed_canvas import make_packed_canvases, read_noised
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, VAEConfig, apply_unet
from omfa_jax.models.reference_unet import ReferenceUNet

Params = dict[str, Any]
# one row per task, in the order of the task table, then the empty prompt
PromptRows = dict[str, Float[np.ndarray, "rows ..."]]


@dataclass(frozen=True)
class Model:
    """A model; its parts must have matching sizes, or an OmfaError is raised.

    `prompts` holds context (tasks + 1, l, d) and pooled (tasks + 1, p), the empty prompt last.
    `unet_params` is None if the UNet is to be initialized at random.
    """

    settings: DiffusionSettings
    unet_config: UNetConfig
    vae_config: VAEConfig
    unet_params: Params | None
    vae_params: Params
    prompts: PromptRows

    def __post_init__(self) -> None:
        s, vae = self.settings, self.vae_config
        facts = {
            "UNet input channels": (s.in_channels, self.unet_config.in_channels),
            "UNet output channels": (s.out_channels, self.unet_config.out_channels),
            "latent channels": (s.latent_channels, vae.latent_channels),
            "VAE stride": (s.stride, vae.stride),
            "rows of the prompt table": (len(s.tasks) + 1, len(self.prompts["context"])),
            "prompt width": (self.unet_config.context_dim, self.prompts["context"].shape[-1]),
            "pooled width": (self.unet_config.pooled_dim, self.prompts["pooled"].shape[-1]),
        }
        # a mismatch would otherwise appear minutes later, as a shape error inside jit
        for what, (wanted, found) in facts.items():
            if wanted != found:
                raise OmfaError(
                    f"{what}: config.canvas, config.diffusion.unet_inputs and the presets need"
                    f" {wanted}, but the weights have {found}; change config.model.unet, .vae or"
                    " .init"
                )

    def with_unet(self, params: Params) -> "Model":
        """Return a copy of the model with these UNet parameters."""
        return dataclasses.replace(self, unet_params=params)


def make_apply_fn(
    settings: DiffusionSettings,
    config: UNetConfig,
    compute: Compute,
) -> Callable[..., Float[Array, "b h w c"]]:
    """Return `apply(params, inputs, t, rows, prompts)`, which looks up each example's prompt row.

    The network is one UNet, or two with `settings.reference`.
    """
    if settings.reference:
        noised, clean = make_packed_canvases(settings)
        find_noised = functools.partial(read_noised, settings)
        return ReferenceUNet(config, compute, noised, clean, find_noised, settings.time_ids)
    time_ids = jnp.asarray(settings.time_ids, jnp.float32)

    def apply(params, inputs, t, rows, prompts):
        return apply_unet(
            config,
            params,
            inputs,
            t,
            prompts["context"][rows],
            prompts["pooled"][rows],
            jnp.broadcast_to(time_ids, (inputs.shape[0], time_ids.shape[0])),
            compute,
        )

    return apply
