"""The dual UNet: a second UNet for the clean components, whose tokens the first one attends to.

As in IDM-VTON (arXiv 2403.05139), OOTDiffusion (2403.01779) and Animate Anyone (2311.17117): the
reference UNet has the main one's shape and weights of its own, sees no noise and no time, and every
self-attention of the main UNet takes its keys and values from both. Its parameters lie beside the
main UNet's in one tree, {"main": ..., "reference": ...}.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.packing import noised_of, packings
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, apply_unet, init_unet, reference_features

MAIN, REFERENCE = "main", "reference"
Params = dict[str, Any]


def network_params(settings: DiffusionSettings, config: UNetConfig, key: PRNGKeyArray) -> Params:
    """Return random parameters of the network that `settings` mean: a UNet, or two.

    The main UNet of two starts as the only one does with the same key.
    """
    params = init_unet(config, key)
    if not settings.reference:
        return params
    return {MAIN: params, REFERENCE: init_unet(config, jax.random.fold_in(key, 1))}


def twice(settings: DiffusionSettings, params: Params) -> Params:
    """Return the parameters to start from, given one UNet's: both start as it, where there are two.

    That is how the published dual UNets start, from a pretrained one.
    """
    return {MAIN: params, REFERENCE: params} if settings.reference else params


class DualNetwork:
    """Both UNets as one network of the joint canvas: what a single one takes and returns.

    Which components are noised is read off the mask in the network input. The main UNet gets the
    noised ones with their part of every input, the reference the clean ones with theirs (so a pose
    map goes where its person goes); the prediction is zero off M.
    """

    def __init__(self, settings: DiffusionSettings, config: UNetConfig, compute: Compute):
        if not any(config.transformer_depth):
            raise OmfaError(
                f"a dual UNet meets in self-attention, and transformer_depth"
                f" {config.transformer_depth} has none; change config.model.unet"
            )
        self._settings, self._config, self._compute = settings, config, compute
        self._noised, self._clean = packings(settings)

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, "b h w cin"],
        t: Array,
        rows: Array,
        prompts: Any,
        features: Any = None,
    ) -> Float[Array, "b h w c"]:
        """Return the prediction; `features` are those of these clean components, if known."""
        if features is None:
            features = self.features(params, inputs, rows, prompts)
        noised = noised_of(self._settings, inputs)
        output = apply_unet(
            self._config,
            params[MAIN],
            self._noised.pack(inputs, noised),
            t,
            *self._text(rows, prompts),
            self._compute,
            features,
        )
        return self._noised.unpack(output, noised)

    def features(
        self, params: Params, inputs: Float[Array, "b h w cin"], rows: Array, prompts: Any
    ) -> Any:
        """Return the reference UNet's tokens; they do not depend on the noised part or the time."""
        clean = ~noised_of(self._settings, inputs)
        return reference_features(
            self._config,
            params[REFERENCE],
            self._clean.pack(inputs, clean),
            *self._text(rows, prompts),
            self._compute,
        )

    def _text(self, rows: Array, prompts: Any) -> tuple[Array, Array, Array]:
        time_ids = jnp.asarray(self._settings.time_ids, jnp.float32)
        sizes = jnp.broadcast_to(time_ids, (rows.shape[0], time_ids.shape[0]))
        return prompts["context"][rows], prompts["pooled"][rows], sizes


def prepared(
    network: Callable[..., Array], params: Params, prompts: Any
) -> Callable[[Array, Array], Callable[[Array, Array, Array], Array]] | None:
    """Return the sampler's `prepare`: reference features once a sample; None for a single UNet."""
    if not isinstance(network, DualNetwork):
        return None

    def prepare(inputs: Array, rows: Array) -> Callable[[Array, Array, Array], Array]:
        features = network.features(params, inputs, rows, prompts)
        return lambda x, t, rows: network(params, x, t, rows, prompts, features)

    return prepare
