"""maxdiffusion's SDXL training step, lowered for described devices from its own checkout.

Nothing of it is copied here: its UNet, its state, its sharding rules and its `_train_step` are
imported from the checkout, with its configs/base_xl.yml. Packages that only its data loading needs
(tensorflow, datasets) are replaced by empty modules.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import jax
import jax.numpy as jnp
import yaml
from flax.linen import partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_ONLY = ("tensorflow", "tensorflow_datasets", "datasets")
TEXT_TOKENS = 77
# stabilityai/stable-diffusion-xl-base-1.0/unet/config.json
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


class _Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports empty modules for the packages of `DATA_ONLY`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in DATA_ONLY:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return MagicMock(name=spec.name)

    def exec_module(self, module: Any) -> None:
        module.__path__ = []


class Config(SimpleNamespace):
    """The values of a YAML config as attributes, as maxdiffusion reads them."""

    def get_keys(self) -> dict[str, Any]:
        """Return the values by name."""
        return vars(self)


def lower_step(
    checkout: Path, devices: list[Any], *, fsdp: int, batch_per_chip: int, attention: str
) -> Any:
    """Return its training step on cached latents, lowered for `devices`, at 1024x1024."""
    sys.path.insert(0, str(checkout / "src"))
    # its versions of these are checked while they are imported, before the data packages vanish
    importlib.import_module("transformers")
    sys.meta_path.insert(0, _Empty())
    from maxdiffusion import max_utils  # type: ignore[import-not-found]
    from maxdiffusion.models.unet_2d_condition_flax import (  # type: ignore[import-not-found]
        FlaxUNet2DConditionModel,
    )
    from maxdiffusion.schedulers.scheduling_euler_discrete_flax import (  # type: ignore[import-not-found]
        FlaxEulerDiscreteScheduler,
    )
    from maxdiffusion.trainers import sdxl_trainer  # type: ignore[import-not-found]

    values = yaml.safe_load((checkout / "src/maxdiffusion/configs/base_xl.yml").read_text())
    batch = batch_per_chip * len(devices)
    config = Config(**values)
    config.attention, config.per_device_batch_size = attention, batch_per_chip
    config.ici_fsdp_parallelism, config.total_train_batch_size = fsdp, batch
    config.dcn_data_parallelism = 1
    mesh = Mesh(max_utils.create_device_mesh(config, devices, logging=False), config.mesh_axes)
    unet = FlaxUNet2DConditionModel(
        **SDXL,
        dtype=jnp.bfloat16,
        weights_dtype=jnp.float32,
        split_head_dim=config.split_head_dim,
        attention_kernel=attention,
        flash_block_sizes=max_utils.get_flash_block_sizes(config),
        mesh=mesh,
        norm_num_groups=config.norm_num_groups,
        precision=max_utils.get_precision(config),
    )
    optimizer = max_utils.create_optimizer(config, lambda step: config.learning_rate)
    init = functools.partial(unet.init_weights, jax.random.key(0))
    # it draws a batch of one example for each device, which here are not attached
    with mesh, patch.object(jax, "device_count", lambda: len(devices)):
        state, _, shardings = max_utils.get_abstract_state(unet, optimizer, config, mesh, init)
    state = max_utils.unbox_logicallypartioned_trainstate(state)

    scheduler = FlaxEulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
    step = max_utils.get_train_step_partial_with_signature(
        sdxl_trainer._train_step,
        pipeline=SimpleNamespace(scheduler=scheduler),
        params={"scheduler": scheduler.create_state()},
        config=config,
    )
    rows = NamedSharding(mesh, PartitionSpec(*map(tuple, config.data_sharding)))

    def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *sizes), dtype)

    side = config.resolution // 8
    shapes = {
        "pixel_values": shape(4, side, side),
        "input_ids": shape(2, TEXT_TOKENS, dtype=jnp.int32),
        "prompt_embeds": shape(TEXT_TOKENS, SDXL["cross_attention_dim"]),
        "text_embeds": shape(1280),
    }
    whole = NamedSharding(mesh, PartitionSpec())
    with mesh, partitioning.axis_rules(config.logical_axis_rules):
        return jax.jit(
            step,
            in_shardings=(shardings, None, None, None, dict.fromkeys(shapes, rows), whole),
            out_shardings=(shardings, None, None),
            donate_argnums=(0,),
        ).lower(state, None, None, None, shapes, jax.eval_shape(lambda: jax.random.PRNGKey(0)))
