"""The reference UNet: a second UNet for the clean components, whose tokens the main one attends to.

As in IDM-VTON (arXiv 2403.05139), OOTDiffusion (2403.01779) and Animate Anyone (2311.17117): the
reference UNet has the main one's architecture and its own weights, sees neither noise nor
timestep, and every self-attention of the main UNet takes keys and values from both. The parameters
of both are one tree, {"main": ..., "reference": ...}.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from omfa_jax.core.errors import OmfaError
from omfa_jax.models.compute import Compute, Params
from omfa_jax.models.network_api import Features, apply_unet, compute_reference_features, init_unet
from omfa_jax.models.network_config import UNetConfig

MAIN, REFERENCE = "main", "reference"


def init_network_params(config: UNetConfig, key: PRNGKeyArray, *, has_reference: bool) -> Params:
    """Return random parameters of one UNet, or with `has_reference` of two.

    With the same key, the main UNet of two starts from the same values as a single one.
    """
    params = init_unet(config, key)
    # the key itself for the main UNet, so that ablations of one seed compare equal starts
    if not has_reference:
        return params
    return {MAIN: params, REFERENCE: init_unet(config, jax.random.fold_in(key, 1))}


def init_from_single(params: Params, *, has_reference: bool) -> Params:
    """Return initial parameters from those of a single UNet; both UNets of two start from them.

    The published models start this way too, from one pretrained UNet.
    """
    return {MAIN: params, REFERENCE: params} if has_reference else params


@runtime_checkable
class Packer(Protocol):
    """Moves the selected components of the joint canvas to a smaller canvas and back."""

    def pack(
        self, joint: Float[Array, "b h w c"], chosen: Bool[Array, "b 3"], /
    ) -> Float[Array, "b h2 w2 c"]:
        """Return the smaller canvas."""
        ...

    def unpack(
        self, packed: Float[Array, "b h2 w2 c"], chosen: Bool[Array, "b 3"], /
    ) -> Float[Array, "b h w c"]:
        """Return the joint canvas, zero where no component is selected."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceUNet:
    """Two UNets with the signature of one UNet over the joint canvas.

    `find_noised` reads off the mask channel of a network input which components are noised. The
    main UNet gets the noised ones with their part of every input, packed by `noised`, and the
    reference UNet the clean ones with theirs, packed by `clean` (a pose map therefore goes where
    its person goes). The prediction is zero off M.
    """

    config: UNetConfig
    compute: Compute
    noised: Packer
    clean: Packer
    find_noised: Callable[[Array], Array]
    time_ids: tuple[float, ...]

    def __post_init__(self) -> None:
        if not any(self.config.transformer_depth):
            raise OmfaError(
                "a reference UNet works through self-attention, and transformer_depth"
                f" {self.config.transformer_depth} has none; change config.model.unet"
            )

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, "b h w cin"],
        t: Num[Array, "b"],
        rows: Int[Array, "b"],
        prompts: Any,
        features: Features | None = None,
    ) -> Float[Array, "b h w c"]:
        """Return the prediction; `features` are those of the same clean components, if cached."""
        if features is None:
            features = self.compute_features(params, inputs, rows, prompts)
        # read off the inputs, because a caller of one UNet passes nothing else that tells
        noised = self.find_noised(inputs)
        output = apply_unet(
            self.config,
            params[MAIN],
            self.noised.pack(inputs, noised),
            t,
            *self._text(rows, prompts),
            self.compute,
            features=features,
        )
        return self.noised.unpack(output, noised)

    def compute_features(
        self,
        params: Params,
        inputs: Float[Array, "b h w cin"],
        rows: Int[Array, "b"],
        prompts: Any,
    ) -> Features:
        """Return the reference UNet's tokens, which depend on neither the noised part nor t."""
        clean = ~self.find_noised(inputs)
        return compute_reference_features(
            self.config,
            params[REFERENCE],
            self.clean.pack(inputs, clean),
            *self._text(rows, prompts),
            self.compute,
        )

    def _text(self, rows: Array, prompts: Any) -> tuple[Array, Array, Array]:
        time_ids = jnp.asarray(self.time_ids, jnp.float32)
        # SDXL's size conditioning, of which a model has one value for all examples
        sizes = jnp.broadcast_to(time_ids, (rows.shape[0], time_ids.shape[0]))
        return prompts["context"][rows], prompts["pooled"][rows], sizes


def cache_reference(
    network: Callable[..., Array], params: Params, prompts: Any
) -> Callable[[Array, Array], Callable[[Array, Array, Array], Array]] | None:
    """Return the sampler's `prepare`, or None for a single UNet.

    It computes the reference features once for all steps of a sample: with the clean components
    fixed, they would be the same at every step, and each step would run a second UNet.
    """
    if not isinstance(network, ReferenceUNet):
        return None

    def prepare(inputs: Array, rows: Array) -> Callable[[Array, Array, Array], Array]:
        features = network.compute_features(params, inputs, rows, prompts)
        return lambda x, t, rows: network(params, x, t, rows, prompts, features)

    return prepare
