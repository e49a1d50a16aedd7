"""diffusers' networks with random weights that make every epsilon and bias count."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from omfa_jax.models import UNetConfig, VAEConfig, get_unet_shapes, get_vae_shapes
from omfa_jax.weights import diffusers_configs, tensor_names
from omfa_jax.weights.tensor_names import Component
from omfa_jax.weights.torch_tensors import LazyTensors

with warnings.catch_warnings():
    # their import's own deprecations are not ours to mend
    warnings.simplefilter("ignore")
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

# level 0 without and with transformers; an attention-free last level (one-resnet middle block)
UNET_SHAPES = {
    "sdxl-like": UNetConfig(
        in_channels=9,
        block_channels=(32, 64),
        layers_per_block=2,
        transformer_depth=(0, 3),
        heads=(1, 2),
        context_dim=40,
        pooled_dim=24,
        time_id_dim=16,
        norm_groups=8,
    ),
    "attention-first": UNetConfig(
        block_channels=(64, 32),
        layers_per_block=1,
        transformer_depth=(2, 0),
        heads=(4, 2),
        context_dim=40,
        pooled_dim=24,
        time_id_dim=16,
        norm_groups=16,
    ),
}


# what writes to the stream that the norms read: small, so that their epsilons count
QUIET = ("conv_in", "conv2", "conv_shortcut", "samplers", "proj_in", "proj_out")


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill every parameter at random, norms away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            loudness = 0.02 if any(part in name for part in QUIET) else 0.6
            if tensor.ndim > 1:
                tensor.copy_(loudness * noise / tensor[0].numel() ** 0.5)
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(0.2 * loudness * noise)
    return model.eval()


def torch_unet(config: UNetConfig, seed: int = 0) -> UNet2DConditionModel:
    return randomised(
        UNet2DConditionModel.from_config(diffusers_configs.make_diffusers_unet_config(config)), seed
    )


def torch_vae(config: VAEConfig, seed: int = 0) -> AutoencoderKL:
    return randomised(
        AutoencoderKL.from_config(diffusers_configs.make_diffusers_vae_config(config)), seed
    )


def get_state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def component_of(config: UNetConfig | VAEConfig, state: dict[str, np.ndarray]) -> Component:
    shapes = get_unet_shapes if isinstance(config, UNetConfig) else get_vae_shapes
    sizes = {key: tensor.shape for key, tensor in state.items()}
    return Component(shapes(config), LazyTensors("test", sizes, state.__getitem__))


def params_of(config: UNetConfig | VAEConfig, model: torch.nn.Module) -> dict:
    return tensor_names.from_torch({"it": component_of(config, get_state_dict(model))})["it"]


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 1)


def unet_inputs(config: UNetConfig, height: int, width: int, seed: int = 0) -> tuple:
    """Return x, t, context, pooled, time_ids for a batch of two."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((2, height, width, config.in_channels), np.float32),
        np.array([3, 981], np.int32),
        rng.standard_normal((2, 7, config.context_dim), np.float32),
        rng.standard_normal((2, config.pooled_dim), np.float32),
        np.array([[1024, 768, 0, 0, 1024, 768], [640, 480, 8, 16, 512, 384]], np.float32),
    )


def run_torch_unet(model: UNet2DConditionModel, inputs: tuple) -> np.ndarray:
    x, t, context, pooled, time_ids = inputs
    added = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(time_ids)}
    with torch.no_grad():
        output = model(
            nchw(x), torch.from_numpy(t), torch.from_numpy(context), added_cond_kwargs=added
        )
    return nhwc(output.sample)


def compiled(function: Callable, *arguments: Any) -> Any:
    """Run `function` compiled without optimisation: the networks are small, compilation is not."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function).lower(*arguments).compile(options)(*arguments)


def relative_l2(came: np.ndarray, expected: np.ndarray) -> float:
    came, expected = np.asarray(came, np.float64), np.asarray(expected, np.float64)
    assert came.shape == expected.shape
    return float(np.linalg.norm(came - expected) / np.linalg.norm(expected))
