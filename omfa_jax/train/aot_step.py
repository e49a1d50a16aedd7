"""Lower the training step of a UNet or a VAE from shapes alone, to compile or time it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import ShapeDtypeStruct as Shape
from jax.sharding import Mesh

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig, encode, get_vae_shapes
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.global_arrays import ROW
from omfa_jax.parallel.mesh import check_batch_size, make_replicated_sharding
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES, UNET_RULES
from omfa_jax.train.network import make_training_network
from omfa_jax.train.objective import Objective, make_diffusion_objective
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.settings import TrainSettings
from omfa_jax.train.state import TrainState, get_state_shardings, make_abstract_state
from omfa_jax.train.step import Step, make_step
from omfa_jax.weights.text_encoders import TEXT_TOKENS


@dataclass(frozen=True)
class AotStep:
    """The step of `omfa train`, and the shapes of its arguments."""

    step: Step
    state: TrainState
    shardings: TrainState
    constants: Any
    batch: dict[str, Shape]

    def lower(self) -> jax.stages.Lowered:
        """Return the step lowered for its mesh, whose devices need not be attached."""
        # eval_shape gives the key's extended dtype and leaves the devices alone
        key = jax.eval_shape(lambda: jax.random.key(0))
        return self.step.lower(self.state, self.constants, self.batch, key)  # type: ignore[attr-defined]


def make_aot_step(
    diffusion: DiffusionSettings,
    config: UNetConfig,
    train: TrainSettings,
    mesh: Mesh,
    *,
    text_tokens: int = TEXT_TOKENS,
    vae: VAEConfig | None = None,
) -> AotStep:
    """Return the step that `omfa train` would run on `mesh`, which may hold device descriptions.

    With `vae` the batch is pictures, which the step encodes; else stored latents.
    """
    check_batch_size(mesh, train.batch_size, train.grad_accum_steps)
    optimizer = make_optimizer(train.optimizer, train.steps)
    network = make_training_network(diffusion, config, train, mesh)
    state = make_abstract_state(
        lambda: init_network_params(config, jax.random.key(0), has_reference=diffusion.reference),
        optimizer,
        train.ema_decay,
    )
    shardings = get_state_shardings(state, UNET_RULES, mesh)
    # the last row is the empty prompt's, for guidance
    rows = len(diffusion.tasks) + 1
    prompts = {
        "context": Shape((rows, text_tokens, config.context_dim), jnp.float32),
        "pooled": Shape((rows, config.pooled_dim), jnp.float32),
    }
    # the step of a run on stored latents never calls the VAE
    constants = {"vae": get_vae_shapes(vae) if vae else {}, "prompts": prompts}

    def encode_images(params: Any, images: Any) -> Any:
        return encode(vae, params, images, dtype=train.compute_dtype) if vae else images

    return _make_aot_step(
        make_diffusion_objective(diffusion, train.loss, network, encode_images),
        optimizer,
        state,
        shardings,
        constants,
        make_abstract_batch(diffusion, train.batch_size, pictures=vae is not None),
        train,
        mesh,
    )


def make_aot_vae_step(
    diffusion: DiffusionSettings,
    vae: VAEConfig,
    train: TrainSettings,
    mesh: Mesh,
    *,
    crop_px: int,
    decoder_only: bool,
) -> AotStep:
    """Return the step that trains a VAE, or its decoder alone, on crops of pictures."""
    # it loads the data pipeline, which a machine that only times a UNet's step need not have
    from omfa_jax.train.vae_run import make_vae_training_objective, split_vae_params

    check_batch_size(mesh, train.batch_size, train.grad_accum_steps)
    optimizer = make_optimizer(train.optimizer, train.steps)
    trained, constants = split_vae_params(get_vae_shapes(vae), decoder_only=decoder_only)
    state = make_abstract_state(trained, optimizer, train.ema_decay)
    return _make_aot_step(
        # noise of the latents changes what is learned, not what a step takes
        make_vae_training_objective(vae, train.compute_dtype, crop_px, latent_noise=0.0),
        optimizer,
        state,
        get_state_shardings(state, REPLICATED_RULES, mesh),
        constants,
        make_abstract_batch(diffusion, train.batch_size, pictures=True),
        train,
        mesh,
    )


def _make_aot_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    shardings: TrainState,
    constants: Any,
    batch: dict[str, Shape],
    train: TrainSettings,
    mesh: Mesh,
) -> AotStep:
    step = make_step(
        objective,
        optimizer,
        train.ema_decay,
        shardings,
        jax.tree.map(lambda _: make_replicated_sharding(mesh), constants),
        mesh,
        grad_accum_steps=train.grad_accum_steps,
        skip_nonfinite=train.on_nonfinite == "skip",
    )
    return AotStep(step, state, shardings, constants, batch)


def make_abstract_batch(
    diffusion: DiffusionSettings, size: int, *, pictures: bool = False
) -> dict[str, Shape]:
    """Return the shapes of a batch on the devices: stored latents, or pictures."""
    slots = dict(
        zip(COMPONENTS, diffusion.slots_px if pictures else diffusion.canvas.slots, strict=True)
    )
    parts = (*slots.items(), ("pose", slots["person"]))
    if pictures:
        images = {name: Shape((size, *slot, 3), jnp.uint8) for name, slot in parts}
    else:
        # float16 as records store them; the step converts
        images = {
            f"{name}_latents": Shape((size, *slot, diffusion.latent_channels), jnp.float16)
            for name, slot in parts
        }
    numbers = {name: Shape((size,), jnp.int32) for name in ("task", ROW)}
    return images | numbers | {"has_pose": Shape((size,), jnp.bool_)}
