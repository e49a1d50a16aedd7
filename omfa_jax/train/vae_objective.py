"""The autoencoder objective, for the demo's small VAE; SDXL's is used as published."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.core.trees import flatten, unflatten
from omfa_jax.parallel.global_arrays import ROW
from omfa_jax.train.objective import Objective, to_signed_float
from omfa_jax.train.rng import make_row_keys

# per latent value, against a mean over pixels: as weak as Stable Diffusion's in these units
KL_WEIGHT = 1e-6
EDGE_WEIGHT = 0.5
# a log-variance of 0 would bury the signal in noise at first
INITIAL_LOGVAR = -6.0
# PyTorch's initial kernels shrink a signal by sqrt(3). That is right inside residual branches, but
# twelve such layers on the main path would leave the decoder no signal to learn from
PATH_GAIN = 3.0**0.5
BRANCHES = re.compile(r"resnets\.\d+/conv[12]/|attentions")


def rescale_initial_vae(params: dict[str, Any]) -> dict[str, Any]:
    """Return newly drawn VAE parameters rescaled to train from scratch (see the constants)."""
    leaves = {}
    for path, leaf in flatten(params):
        on_path = path[-1] == "kernel" and not BRANCHES.search("/".join(path))
        leaves[path] = leaf * PATH_GAIN if on_path else leaf
    bias = leaves["quant_conv", "bias"]
    leaves["quant_conv", "bias"] = bias.at[bias.shape[0] // 2 :].set(INITIAL_LOGVAR)
    return unflatten(leaves)


def random_crop(key: Array, image: Float[Array, "h w 3"], size_px: int) -> Float[Array, "s s 3"]:
    """Return a random square of an image."""
    corner = [
        jax.random.randint(jax.random.fold_in(key, axis), (), 0, image.shape[axis] - size_px + 1)
        for axis in (0, 1)
    ]
    return jax.lax.dynamic_slice(image, (*corner, 0), (size_px, size_px, 3))


def compute_edges(images: Float[Array, "b h w 3"]) -> tuple[Array, Array]:
    """Return horizontal and vertical differences, where blur costs more than in flat areas."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, 1:] - images[:, :-1]


def make_vae_objective(
    posterior: Callable[..., tuple[Array, Array]],
    decode_raw: Callable[..., Array],
    crop_px: int,
    latent_noise: float = 0.0,
) -> Objective:
    """Return L1 + L1 of edges + a small KL term (arXiv 2112.10752, appendix G) on square crops.

    `posterior(params, images) -> mean, log-variance` and `decode_raw(params, z) -> images` are
    the VAE without its scaling factor; `params` are the constants and trained parts together.
    `latent_noise` is the standard deviation, in unscaled latents, of noise beyond the posterior's
    own: a decoder trained with it is robust to a UNet's errors.
    """

    def objective(params, constants, batch, root, step):
        params = {**constants, **params}
        # pose maps too: the same VAE encodes them in the UNet's training
        kinds = (*COMPONENTS, "pose")
        keys = [make_row_keys(root, f"vae/{kind}", step, batch[ROW]) for kind in kinds]
        crops = [
            jax.vmap(lambda key, image: random_crop(key, image, crop_px))(
                row, to_signed_float(batch[kind])
            )
            for row, kind in zip(keys, kinds, strict=True)
        ]
        images = jnp.concatenate(crops)
        mean, logvar = posterior(params, images)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 2), mean.shape[1:]))(
            jnp.concatenate(keys)
        )
        # independent noises: variances add
        spread = jnp.sqrt(jnp.exp(logvar) + latent_noise**2)
        output = decode_raw(params, mean + spread * noise)
        l1 = jnp.mean(jnp.abs(output - images))
        edge = sum(
            jnp.mean(jnp.abs(a - b))
            for a, b in zip(compute_edges(output), compute_edges(images), strict=True)
        )
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        spreads = jnp.std(mean, axis=(1, 2, 3)).mean()
        means = {"l1": l1, "kl": kl, "latent_std": spreads}
        sums = {name: (value, jnp.ones(())) for name, value in means.items()}
        return l1 + EDGE_WEIGHT * edge + KL_WEIGHT * kl, sums

    return objective
