"""Independent counts of the networks' FLOPs: XLA's, of lowered programs, and torch's.

XLA counts a loop's body once, so a stack of ten blocks counts as one; the other nine are lowered
separately and added. `bench/flops_vs_compiler.py` also compares with unrolled stacks.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jax.extend.core import jaxpr_as_fun

from omfa_jax.models import (
    UNetConfig,
    VAEConfig,
    apply_unet,
    decode,
    encode_posterior,
    get_unet_shapes,
    init_vae,
)
from omfa_jax.models.compute import Compute
from omfa_jax.models.transformer import TransformerBlock
from omfa_jax.planning.flop_counter import FlopCounter

# XLA's own gradients of convolutions; on CPUs this library has others, as products over windows
# that hold the padding too (models/convolution.py)
PLATFORM = "tpu"


def flops(function, *shapes) -> float:
    """Return XLA's count of a function before it optimises."""
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=(PLATFORM,))
    return lowered.cost_analysis()["flops"]


def forward_and_step(function, params, *inputs) -> tuple[float, float]:
    """Return the counts of a function's forward pass, and of forward and gradient to `params`."""
    # Python runs once for both
    traced = jax.make_jaxpr(function)(params, *inputs)
    run = jaxpr_as_fun(traced)
    trained, others = jax.tree.leaves(params), jax.tree.leaves(inputs)
    cotangents = [Shape(output.shape, output.dtype) for output in traced.out_avals]

    def forward(trained, others):
        return run(*trained, *others)

    def step(cotangents, trained, others):
        out, back = jax.vjp(lambda leaves: run(*leaves, *others), trained)
        return out, back(cotangents)

    return flops(forward, trained, others), flops(step, cotangents, trained, others)


def unet_inputs(config: UNetConfig, height: int, width: int, text_tokens: int):
    return (
        Shape((1, height, width, config.in_channels), jnp.float32),
        Shape((1,), jnp.int32),
        Shape((1, text_tokens, config.context_dim), jnp.float32),
        Shape((1, config.pooled_dim), jnp.float32),
        Shape((1, 6), jnp.float32),
    )


def unet_flops(
    config: UNetConfig, height: int, width: int, text_tokens: int
) -> tuple[float, float]:
    """Return the counts of a forward pass, and of forward and gradient, of one example."""
    inputs = unet_inputs(config, height, width, text_tokens)
    forward, step = forward_and_step(
        lambda params, *inputs: apply_unet(config, params, *inputs),
        get_unet_shapes(config),
        *inputs,
    )
    for level, depth in enumerate(config.transformer_depth):
        if depth > 1:
            block = block_flops(config, level, height, width, text_tokens)
            more = (depth - 1) * stacks(config, level)
            forward, step = forward + more * block[0], step + more * block[1]
        tokens = -(-height // 2**level) * -(-width // 2**level)
        gates = depth * stacks(config, level) * tokens * 4 * config.block_channels[level]
        step -= gates * count_excess_of_erf()
    return forward, step


@functools.cache
def count_excess_of_erf() -> float:
    """Return by how much erf's gradient takes more operations an element than jax 0.10's four.

    Since jax 0.12 it is 24, for the sake of precision, where the closed form counts no such thing.
    """
    count = 1000
    x = Shape((count,), jnp.float32)
    return flops(lambda x, cotangent: jax.vjp(jax.lax.erf, x)[1](cotangent), x, x) / count - 4


def stacks(config: UNetConfig, level: int) -> int:
    """Return how many stacks of blocks a level has, the middle's counted with the last level."""
    return 2 * config.layers_per_block + 1 + (level == len(config.block_channels) - 1)


def block_flops(
    config: UNetConfig, level: int, height: int, width: int, text_tokens: int
) -> tuple[float, float]:
    """Return the counts of one transformer block; its gradient goes to weights and tokens."""
    for _ in range(level):
        height, width = -(-height // 2), -(-width // 2)
    block = TransformerBlock(config.heads[level], Compute())
    x = Shape((1, height * width, config.block_channels[level]), jnp.float32)
    context = Shape((1, text_tokens, config.context_dim), jnp.float32)
    params = jax.eval_shape(block.init, jax.random.key(0), x, context)
    return forward_and_step(
        lambda trained, context: block.apply(*trained, context)[0], (params, x), context
    )


def vae_flops(config: VAEConfig, height: int, width: int, *, half: str) -> tuple[float, float]:
    """Return the counts of an encoder's or a decoder's forward, and of forward and gradient."""
    params = jax.eval_shape(lambda: init_vae(config, jax.random.key(0)))
    if half == "encoder":
        params = {name: params[name] for name in ("encoder", "quant_conv")}
        shape, run = (1, height, width, 3), encode_posterior
    else:
        params = {name: params[name] for name in ("decoder", "post_quant_conv")}
        stride = config.stride
        shape = (1, height // stride, width // stride, config.latent_channels)
        run = decode
    return forward_and_step(
        lambda params, x: run(config, params, x), params, Shape(shape, jnp.float32)
    )


@dataclass
class Flops:
    """FLOPs of one forward pass of one example, by kind, as published figures count them.

    Norms, activations and sums are left out and taps on a convolution's padding count, as in
    torch's FlopCounterMode.
    """

    conv: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.linear + self.attention


def products(count: FlopCounter) -> Flops:
    """Return a network's forward FLOPs by kind."""
    parts = (count.self_attention, count.cross_attention, count.feed_forward, count.other)
    return Flops(
        conv=count.conv.forward + count.padding,
        linear=sum(part.forward for part in parts) - count.scores,
        attention=count.scores,
    )
