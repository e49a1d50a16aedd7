"""The networks as functions of parameters and arrays; nothing outside this layer imports Flax.

Parameters are nested dicts of float32 arrays: Flax's `params` collection and no other.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num, PRNGKeyArray

from omfa_jax.models.compute import Compute, Params
from omfa_jax.models.initializers import init_params
from omfa_jax.models.network_config import UNetConfig, VAEConfig
from omfa_jax.models.transformer import FEATURES
from omfa_jax.models.unet import UNet
from omfa_jax.models.vae import VAE, make_vae_compute

DEFAULT_COMPUTE = Compute()
# the tree of arrays that `compute_reference_features` returns
Features = dict[str, Any]


@functools.partial(jax.jit, static_argnames="config")
def init_unet(config: UNetConfig, key: PRNGKeyArray) -> Params:
    """Return random parameters; traceable by `jax.eval_shape` and by a jit with shardings."""
    return init_params(get_unet_shapes(config), key)


def get_unet_shapes(config: UNetConfig) -> Params:
    """Return the parameter tree of a UNet as jax.ShapeDtypeStructs, without computing anything."""
    return jax.tree.map(lambda shape: shape, _trace_unet_shapes(config))


def get_vae_shapes(config: VAEConfig) -> Params:
    """Return the parameter tree of a VAE as jax.ShapeDtypeStructs, without computing anything."""
    return jax.tree.map(lambda shape: shape, _trace_vae_shapes(config))


def apply_unet(
    config: UNetConfig,
    params: Params,
    x: Float[Array, "b h w c_in"],
    t: Num[Array, "b"],
    context: Float[Array, "b l d"],
    pooled: Float[Array, "b p"],
    time_ids: Num[Array, "b 6"],
    compute: Compute = DEFAULT_COMPUTE,
    *,
    features: Features | None = None,
) -> Float[Array, "b h w c_out"]:
    """Return the UNet's float32 prediction for noisy latents `x` at timesteps `t` (0..999).

    `context` is the prompt's token embeddings, `pooled` its pooled embedding, and `time_ids` the
    original height and width, the crop's top and left, and the target height and width, in pixels.
    Any height and width work; multiples of `config.stride` avoid odd sizes at the lower levels.
    `features`, from `compute_reference_features`, are extra keys and values of every
    self-attention.
    """
    kept = {} if features is None else {FEATURES: features}
    module = UNet(config, compute)
    return module.apply({"params": params, **kept}, x, t, context, pooled, time_ids)  # pyright: ignore


def compute_reference_features(
    config: UNetConfig,
    params: Params,
    x: Float[Array, "b h w c_in"],
    context: Float[Array, "b l d"],
    pooled: Float[Array, "b p"],
    time_ids: Num[Array, "b 6"],
    compute: Compute = DEFAULT_COMPUTE,
) -> Features:
    """Return the normed input tokens of every self-attention of a UNet at timestep 0.

    The result is a tree with one (depth, b, tokens, channels) array per transformer, for
    `apply_unet` with the same `config` and batch size; image sizes may differ. What the UNet
    computes after its last self-attention's norm is unused, and XLA removes it.
    """
    # timestep 0, always: the clean components have no noise level
    module, t = UNet(config, compute), jnp.zeros(x.shape[0], jnp.int32)
    variables: Any = {"params": params}
    _, kept = module.apply(variables, x, t, context, pooled, time_ids, mutable=[FEATURES])
    return dict(kept[FEATURES])


@functools.partial(jax.jit, static_argnames="config")
def init_vae(config: VAEConfig, key: PRNGKeyArray) -> Params:
    """Return random parameters of encoder and decoder; traceable like `init_unet`."""
    return init_params(get_vae_shapes(config), key)


def encode_posterior(
    config: VAEConfig,
    params: Params,
    images: Float[Array, "b h w 3"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b h2 w2 c"]]:
    """Return mean and log-variance of the unscaled latents of images in [-1, 1].

    Height and width should be multiples of `config.stride`; otherwise the last pixels are dropped.
    """
    vae = VAE(config, make_vae_compute(config, dtype))
    return _apply(vae, params, images, method=VAE.posterior)


def encode(
    config: VAEConfig,
    params: Params,
    images: Float[Array, "b h w 3"],
    *,
    key: PRNGKeyArray | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h2 w2 c"]:
    """Return scaled latents of images in [-1, 1]: the posterior's mean, or a sample given a key."""
    latents, logvar = encode_posterior(config, params, images, dtype=dtype)
    if key is not None:
        noise = jax.random.normal(key, latents.shape, latents.dtype)
        latents = latents + jnp.exp(0.5 * logvar) * noise
    return config.scaling_factor * latents


def decode(
    config: VAEConfig,
    params: Params,
    latents: Float[Array, "b h w c"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h2 w2 3"]:
    """Return images, nominally in [-1, 1] but not clipped, of scaled latents."""
    vae = VAE(config, make_vae_compute(config, dtype))
    return _apply(vae, params, latents / config.scaling_factor, method=VAE.decode)


# tracing a network takes a second, and every part of a program asks for its shapes
@functools.lru_cache(maxsize=64)
def _trace_unet_shapes(config: UNetConfig) -> Params:
    # the smallest image that passes all levels: shapes of parameters do not depend on it
    size = config.stride
    return _trace_shapes(
        UNet(config, Compute()),
        (1, size, size, config.in_channels),
        (1,),
        (1, 1, config.context_dim),
        (1, config.pooled_dim),
        (1, 6),
    )


@functools.lru_cache(maxsize=64)
def _trace_vae_shapes(config: VAEConfig) -> Params:
    return _trace_shapes(VAE(config, Compute()), (1, config.stride, config.stride, 3))


def _trace_shapes(module: nn.Module, *inputs: tuple[int, ...]) -> Params:
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    return jax.eval_shape(module.init, jax.random.key(0), *arrays)["params"]


def _apply(module: nn.Module, params: Params, *inputs: Array, method: Any = None) -> Any:
    return module.apply({"params": params}, *inputs, method=method)
