"""Compare XLA's FLOP count with the closed-form count, for a config's step or for presets.

    PYTHONPATH=.:tests python bench/flops_vs_compiler.py [--config FILE] [--config.a.b=value ...]
    PYTHONPATH=.:tests python bench/flops_vs_compiler.py --presets ladder_12 sdxl ...

XLA counts a loop's body once. The config's step, including the optimizer, is therefore analysed
with unrolled transformer stacks; for presets the blocks are counted one by one
(tests/compiler_flops.py) on the config's canvas. Remat is off and nothing is compiled.
"""

import argparse

import jax
import jax.numpy as jnp
from compiler_flops import products, unet_flops
from jax import ShapeDtypeStruct as Shape

from omfa_jax.cli import config_lib
from omfa_jax.models import (
    UNETS,
    UNetConfig,
    apply_unet,
    get_unet_shapes,
    get_vae_config,
    transformer,
)
from omfa_jax.planning.flops import count_unet_flops
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.settings import OptimizerSettings
from omfa_jax.weights.text_encoders import TEXT_TOKENS

CANVASES = {
    "1024x1024": (128, 128),
    "768x1024": (128, 96),
    "two components": (128, 192),
    "three components": (128, 288),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/base.py")
    parser.add_argument("--step", default="768x1024", choices=CANVASES, help="canvas of the step")
    parser.add_argument("--presets", nargs="+", choices=UNETS, help="presets to count")
    options, overrides = parser.parse_known_args()
    config = config_lib.load_config(options.config, overrides)
    diffusion = config_lib.make_diffusion_settings(config, get_vae_config(config.model.vae))
    if options.presets:
        presets(options.presets, *diffusion.canvas.shape[:2])
        return
    unet = make_unet_config(config.model.unet, diffusion)
    train = config_lib.make_train_settings(config)
    plain = UNetConfig()
    print("| canvas | forward, TFLOP by formula (SDXL's own 4 channels) |\n| --- | --- |")
    for name, (height, width) in CANVASES.items():
        print(f"| {name} | {products(count_unet_flops(plain, height, width)).total / 1e12:.3f} |")
    height, width = CANVASES[options.step]
    counted = step_flops(unet, train.optimizer, height, width)
    count = count_unet_flops(unet, height, width)
    formula, published = count.total.step, 3 * products(count).total
    print(f"step on {options.step}: XLA with the optimizer {counted / 1e12:.3f} TFLOP;", end=" ")
    print(f"by component {formula / 1e12:.3f}: {counted / formula:.4f} times;", end=" ")
    print(f"3 x forward {published / 1e12:.3f}: {counted / published:.4f} times")


def presets(names: list[str], height: int, width: int) -> None:
    """Print the ratio of XLA's counts to the formulas' for presets on a (height, width) canvas."""
    print(f"| preset, {height}x{width} | forward: XLA / formula | step: XLA / formula |")
    print("| --- | --- | --- |")
    for name in names:
        total = count_unet_flops(UNETS[name], height, width).total
        forward, step = unet_flops(UNETS[name], height, width, TEXT_TOKENS)
        print(
            f"| {name} | {forward / total.forward:.4f} of {total.forward / 1e9:,.4g} G"
            f" | {step / total.step:.4f} of {total.step / 1e9:,.4g} G |",
            flush=True,
        )


def step_flops(config: UNetConfig, settings: OptimizerSettings, height: int, width: int) -> float:
    """Return XLA's count of loss, gradient and update for one example, with unrolled stacks."""
    from omfa_jax.train.optimizer import make_optimizer

    scan = transformer.nn.scan
    transformer.nn.scan = lambda block, **changes: scan(block, unroll=changes["length"], **changes)
    optimizer = make_optimizer(settings, 1)
    try:
        shapes = get_unet_shapes(config)

        def step(params, state, x, t, context, pooled, ids):
            def loss(p):
                return jnp.mean(apply_unet(config, p, x, t, context, pooled, ids) ** 2)

            grads = jax.grad(loss)(params)
            return optimizer.update(grads, state, params)

        lowered = jax.jit(step).lower(
            shapes,
            jax.eval_shape(optimizer.init, shapes),
            Shape((1, height, width, config.in_channels), jnp.float32),
            Shape((1,), jnp.int32),
            Shape((1, TEXT_TOKENS, config.context_dim), jnp.float32),
            Shape((1, config.pooled_dim), jnp.float32),
            Shape((1, 6), jnp.float32),
        )
        analysis = lowered.cost_analysis()
    finally:
        transformer.nn.scan = scan
    return analysis["flops"]


if __name__ == "__main__":
    main()
