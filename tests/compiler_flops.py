"""The compiler's own count of the networks' FLOPs: lowered, never compiled or run.

XLA counts a loop's body once, so a stack of ten blocks counts as one; the blocks that a stack has
more are lowered by themselves and added. `bench/flops.py` does it with unrolled stacks as well.
"""

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape

from omfa_jax.models import UNetConfig, VAEConfig, apply_unet, decode, init_vae, posterior
from omfa_jax.models.compute import Compute
from omfa_jax.models.transformer import TransformerBlock
from omfa_jax.train.network import unet_shapes

# XLA's own gradients of convolutions; on CPUs this library has others, as products over windows
# that hold the padding too (models/convolution.py)
PLATFORM = "tpu"


def flops(function, *shapes) -> float:
    """Return XLA's count of a function before it optimises."""
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=(PLATFORM,))
    return lowered.cost_analysis()["flops"]


def gradient(function, params, *shapes):
    """Return a function of (cotangent, params, *inputs), and its shapes: output and gradient."""
    output = jax.eval_shape(function, params, *shapes)

    def both(cotangent, params, *inputs):
        out, back = jax.vjp(lambda p: function(p, *inputs), params)
        return out, back(cotangent)

    return both, (output, params, *shapes)


def unet_inputs(config: UNetConfig, height: int, width: int, text_tokens: int):
    return (
        Shape((1, height, width, config.in_channels), jnp.float32),
        Shape((1,), jnp.int32),
        Shape((1, text_tokens, config.context_dim), jnp.float32),
        Shape((1, config.pooled_dim), jnp.float32),
        Shape((1, 6), jnp.float32),
    )


def unet_flops(
    config: UNetConfig, height: int, width: int, text_tokens: int, *, step: bool
) -> float:
    """Return the count of a forward pass, or of forward and gradient, of one example."""
    params = unet_shapes(config)
    inputs = unet_inputs(config, height, width, text_tokens)

    def forward(params, *inputs):
        return apply_unet(config, params, *inputs)

    if step:
        function, shapes = gradient(forward, params, *inputs)
        counted = flops(function, *shapes)
    else:
        counted = flops(forward, params, *inputs)
    return counted + sum(
        (config.transformer_depth[level] - 1)
        * stacks(config, level)
        * block_flops(config, level, height, width, text_tokens, step=step)
        for level, depth in enumerate(config.transformer_depth)
        if depth > 1
    )


def stacks(config: UNetConfig, level: int) -> int:
    """Return how many stacks of blocks a level has, the middle's counted with the last level."""
    return 2 * config.layers_per_block + 1 + (level == len(config.block_channels) - 1)


def block_flops(
    config: UNetConfig, level: int, height: int, width: int, text_tokens: int, *, step: bool
) -> float:
    """Return the count of one transformer block; its gradient goes to weights and tokens."""
    for _ in range(level):
        height, width = -(-height // 2), -(-width // 2)
    block = TransformerBlock(config.heads[level], Compute())
    x = Shape((1, height * width, config.block_channels[level]), jnp.float32)
    context = Shape((1, text_tokens, config.context_dim), jnp.float32)
    params = jax.eval_shape(block.init, jax.random.key(0), x, context)

    def forward(params_and_x, context):
        return block.apply(params_and_x[0], params_and_x[1], context)[0]

    if not step:
        return flops(forward, (params, x), context)
    function, shapes = gradient(forward, (params, x), context)
    return flops(function, *shapes)


def vae_flops(config: VAEConfig, height: int, width: int, *, half: str, step: bool) -> float:
    """Return the count of an encoder's or a decoder's forward, or forward and gradient."""
    params = jax.eval_shape(lambda: init_vae(config, jax.random.key(0)))
    if half == "encoder":
        params = {name: params[name] for name in ("encoder", "quant_conv")}
        shape, run = (1, height, width, 3), posterior
    else:
        params = {name: params[name] for name in ("decoder", "post_quant_conv")}
        stride = config.stride
        shape = (1, height // stride, width // stride, config.latent_channels)
        run = decode

    def forward(params, x):
        return run(config, params, x)

    if not step:
        return flops(forward, params, Shape(shape, jnp.float32))
    function, shapes = gradient(forward, params, Shape(shape, jnp.float32))
    return flops(function, *shapes)
