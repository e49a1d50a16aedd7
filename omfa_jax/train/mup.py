"""muP: transfer learning rates and initial scales from a narrow UNet to a wide one.

Maximal update parametrisation for Adam (Yang et al., arXiv 2203.03466, table 3). Every weight is
compared by its path with the same weight of a narrow base model, so no list of layers is needed:

- a weight whose fan-in grows with the width, by r, gets 1 / r of the learning rate (in convolutions
  the fan-in counts input channels: the kernel size does not grow);
- if in addition its fan-out does not grow (the last convolution), its initial scale is multiplied
  by 1 / sqrt(r), so that it falls as 1 / fan-in and not as 1 / sqrt(fan-in);
- all others (the first convolution, biases, norm scales) are unchanged: weights are initialised
  with variance 1 / fan-in anyway.

With Adam this is table 8's form without its output multiplier, so the network stays the one that
diffusers runs. Heads are 64 wide at any width, so attention's 1 / sqrt(d) stays. muP covers width
only: a stack may be deeper than the base's, but nothing is corrected for that.
"""

import math
from collections.abc import Mapping
from typing import Any

import optax

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import KeyPath, flatten, unflatten
from omfa_jax.models import UNetConfig, get_unet_config, get_unet_shapes

Params = dict[str, Any]


def get_base_shapes(params: Mapping[str, Any], base: str) -> dict[KeyPath, tuple[int, ...]]:
    """Return the shapes of preset `base` with the inputs and outputs that `params` have."""
    ends = {end: params[end]["kernel"].shape for end in ("conv_in", "conv_out") if end in params}
    if len(ends) < 2:
        raise OmfaError(
            "config.optimizer.mup_base is for UNets; leave it empty for the autoencoder"
        )
    # conv_in and conv_out follow the canvas, whose channels do not grow with the width
    config: UNetConfig = get_unet_config(
        base, in_channels=ends["conv_in"][-2], out_channels=ends["conv_out"][-1]
    )
    return {path: tuple(leaf.shape) for path, leaf in flatten(get_unet_shapes(config))}


def compute_width_ratios(
    params: Mapping[str, Any], base: str
) -> dict[KeyPath, tuple[float, float]]:
    """Return the ratios (fan-in, fan-out) of every weight to those of preset `base`.

    A bias or norm scale has no fan-in: 1. A base with other levels or layers is an OmfaError.
    """
    narrow = get_base_shapes(params, base)
    here = {path: tuple(leaf.shape) for path, leaf in flatten(params)}
    if here.keys() != narrow.keys():
        odd = sorted("/".join(path) for path in here.keys() ^ narrow.keys())
        raise OmfaError(
            f"config.optimizer.mup_base={base!r} has different layers from the trained UNet"
            f" ({odd[0]} is in only one of them); choose a base with the same levels and layers,"
            " such as ladder_32 for the ladder"
        )
    # a kernel's last axes are (inputs, outputs), of convolutions and stacked layers too
    return {
        path: (
            shape[-2] / narrow[path][-2] if path[-1] == "kernel" else 1.0,
            shape[-1] / narrow[path][-1],
        )
        for path, shape in here.items()
    }


def scale_by_width(base: str) -> optax.GradientTransformation:
    """Return the transformation that divides each update by its weight's fan-in ratio."""

    def init(params: Params) -> optax.EmptyState:
        # for its error only: a base that does not fit is found before the first step is compiled
        compute_width_ratios(params, base)
        return optax.EmptyState()

    def update(updates: Params, state: optax.OptState, params: Params | None = None):
        assert params is not None
        ratios = compute_width_ratios(params, base)
        scaled = {path: leaf / ratios[path][0] for path, leaf in flatten(updates)}
        return unflatten(scaled), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def rescale_initial_params(params: Params, base: str) -> Params:
    """Return random parameters rescaled to muP's initial scales; traceable."""
    leaves = {}
    ratios = compute_width_ratios(params, base)
    for path, leaf in flatten(params):
        inputs, outputs = ratios[path]
        # only the last convolution has a fan-in that grows and a fan-out that does not
        is_output = inputs != 1 and outputs == 1
        leaves[path] = leaf / math.sqrt(inputs) if is_output else leaf
    return unflatten(leaves)
