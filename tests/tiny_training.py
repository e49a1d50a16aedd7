"""A training run small enough for every test: stored latents, a UNet of a few thousand weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from small_settings import make_loss_settings, make_optimizer_settings, make_train_settings

from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES
from omfa_jax.train.loop import TrainRun
from omfa_jax.train.network import make_training_network
from omfa_jax.train.objective import ApplyFn, make_diffusion_objective

BATCH = 8
SETTINGS = DiffusionSettings(
    tasks=(Task("try_on", ("person",), 0.5, "on"), Task("try_off", ("garment",), 0.5, "off")),
    slots_px=((32, 32), (32, 32), (16, 16)),
    stride=8,
    latent_channels=4,
    prediction="v",
)
UNET = UNetConfig(
    in_channels=SETTINGS.in_channels,
    out_channels=SETTINGS.out_channels,
    block_channels=(16, 32),
    layers_per_block=1,
    transformer_depth=(0, 2),
    heads=(2, 4),
    context_dim=8,
    pooled_dim=8,
    time_id_dim=4,
    norm_groups=4,
)
# for tests of what is done with a network: half the time to compile
PLAIN_UNET = dataclasses.replace(UNET, transformer_depth=(0, 0))


class CountingBatches:
    """Batches that are a function of their number; the position is that number."""

    def __init__(self) -> None:
        self.position = 0
        self.seen: list[int] = []

    def __next__(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.position)
        self.seen.append(self.position)
        self.position += 1
        sizes = {"garment": (4, 4), "person": (4, 4), "face": (2, 2), "pose": (4, 4)}
        return {
            **{
                f"{name}_latents": rng.standard_normal((BATCH, *size, 4), np.float32)
                for name, size in sizes.items()
            },
            "has_pose": np.arange(BATCH) % 4 > 0,
            "task": rng.integers(0, 2, BATCH).astype(np.int32),
            "index": np.arange(BATCH),
        }

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["next_index"]


def make_run(
    workdir: Path,
    steps: int,
    mesh: tuple[int, int, int] = (1, 1, 1),
    *,
    diffusion: DiffusionSettings = SETTINGS,
    unet: UNetConfig = UNET,
    order: Sequence[int] = (),
    apply: ApplyFn | None = None,
    **changes,
) -> TrainRun:
    devices = jax.devices()[: int(np.prod(mesh))]
    devices = [devices[place] for place in order or range(len(devices))]
    made = make_mesh(MeshSettings(*mesh), devices)
    settings = make_train_settings(
        **{
            "steps": steps,
            "batch_size": BATCH,
            "ema_decay": 0.9,
            "optimizer": make_optimizer_settings(learning_rate=1e-3, warmup_steps=2),
            "loss": make_loss_settings(condition_dropout=0.3),
            "save_every_steps": 100,
            "log_every_steps": 1,
            **changes,
        }
    )
    rng = np.random.default_rng(0)
    prompts = {
        "context": rng.standard_normal((3, 2, 8), np.float32),
        "pooled": rng.standard_normal((3, 8), np.float32),
    }
    # tracing the UNet takes seconds, which a stand-in for it need not pay
    apply = apply or make_training_network(diffusion, unet, settings, made)
    return TrainRun(
        workdir=workdir,
        settings=settings,
        objective=make_diffusion_objective(
            diffusion, settings.loss, apply, lambda _, images: images
        ),
        start=lambda: init_network_params(
            unet, jax.random.key(0), has_reference=diffusion.reference
        ),
        constants={"vae": {}, "prompts": prompts},
        rules=UNET_RULES,
        mesh=made,
        batches=CountingBatches(),
        config={"model": {"unet": "test"}},
    )
