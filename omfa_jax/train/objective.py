"""The partial-diffusion objective: a batch to the loss on its noised components."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.core.tasks import COMPONENTS, make_noised_table
from omfa_jax.diffusion.condition_dropout import drop_conditions
from omfa_jax.diffusion.loss import compute_loss_weight, masked_mean
from omfa_jax.diffusion.partial import compute_target, corrupt, make_network_input
from omfa_jax.diffusion.schedule import get_alpha_sigma
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.parallel.global_arrays import ROW
from omfa_jax.train.rng import make_row_keys
from omfa_jax.train.settings import LossSettings

# quarters of the schedule: with 8 examples per step, most steps see each of them
NOISE_LEVELS = 4

# a batch of data/pipeline/batch.py on the devices, with its rows' numbers under ROW
DeviceBatch = Mapping[str, Array]
# (sum, count) of each metric: sums add up over devices and microbatches, means do not
Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
# (params, constants, batch, root key, step) -> mean loss, sums
Objective = Callable[[Any, Any, DeviceBatch, jax.Array, Array], tuple[Float[Array, ""], Sums]]
# (params, network input, timesteps, prompt rows, prompt table) -> prediction
ApplyFn = Callable[..., Float[Array, "b h w c"]]


def to_signed_float(images: Array) -> Float[Array, "b h w 3"]:
    """Convert uint8 images, as the pipeline sends them, to float32 in [-1, 1]; pass others on."""
    if images.dtype != jnp.uint8:
        return images
    return images.astype(jnp.float32) * (2 / 255) - 1


def encode_batch(
    batch: DeviceBatch, encode: Callable[[Float[Array, "b h w 3"]], Float[Array, "b h w c"]]
) -> dict[str, Float[Array, "b h w c"]]:
    """Return latents of the three components and the pose map; encode those that are not stored.

    Without a pose map (`has_pose` False) the pose is null: zero latents.
    """
    latents = {}
    for name in (*COMPONENTS, "pose"):
        stored = batch.get(f"{name}_latents")
        latents[name] = (
            encode(to_signed_float(batch[name])) if stored is None else stored.astype(jnp.float32)
        )
    # here and not in the pipeline: the latent of a black pose map is not zero
    has_pose = batch["has_pose"][:, None, None, None]
    latents["pose"] = jnp.where(has_pose, latents["pose"], 0.0)
    return jax.lax.stop_gradient(latents)


def make_diffusion_objective(
    settings: DiffusionSettings, loss: LossSettings, apply: ApplyFn, encode: Callable[..., Array]
) -> Objective:
    """Return the objective of docs/method.md, sections 3 to 5 and 7; a batch may mix tasks."""
    canvas, table = settings.canvas, jnp.asarray(make_noised_table(settings.tasks))
    null_prompt = len(settings.tasks)
    gamma = loss.min_snr_gamma or None

    def objective(params, constants, batch, root, step):
        latents = encode_batch(batch, lambda images: encode(constants["vae"], images))
        pose = canvas.assemble({"person": latents.pop("pose")})
        x0 = canvas.assemble(latents)
        # a lookup and not a branch: examples of different tasks share one compiled program
        mask = canvas.make_mask(table[batch["task"]])

        def draw_rows(name, draw):
            # a key per row of the global batch: draws do not depend on devices or microbatches
            return jax.vmap(draw)(make_row_keys(root, name, step, batch[ROW]))

        t = draw_rows(
            "timestep", lambda key: loss.timesteps.sample(key, settings.schedule.train_steps)
        )
        eps = draw_rows("noise", lambda key: jax.random.normal(key, x0.shape[1:]))
        alpha, sigma = get_alpha_sigma(settings.schedule, t)
        xt = corrupt(x0, eps, mask, alpha, sigma)
        drop = draw_rows("dropout", lambda key: jax.random.bernoulli(key, loss.condition_dropout))
        xt, pose, prompt = drop_conditions(drop, xt, mask, pose, batch["task"], null_prompt)

        inputs = make_network_input(settings.unet_inputs, canvas, xt, mask, pose)
        output = apply(params, inputs, t, prompt, constants["prompts"])
        # of x0 and not of the x_t that dropout has changed; dropout leaves the noised part alone
        wanted = compute_target(settings.prediction, x0, eps, alpha, sigma)
        per_example = masked_mean((output - wanted) ** 2, mask)
        # each example counts the same, whatever the size of its noised part
        mean = jnp.mean(compute_loss_weight(settings.prediction, gamma, alpha, sigma) * per_example)
        return mean, {
            **sum_losses_by_task(settings, per_example, batch["task"]),
            **sum_losses_by_noise(settings, per_example, t),
        }

    return objective


def sum_losses_by_task(
    settings: DiffusionSettings, per_example: Float[Array, "b"], task: Array
) -> Sums:
    """Return the unweighted loss of each task, whose mean is NaN if the batch has none of it."""
    return {
        f"loss/{row.name}": _sum_selected(per_example, task == index)
        for index, row in enumerate(settings.tasks)
    }


def sum_losses_by_noise(
    settings: DiffusionSettings, per_example: Float[Array, "b"], t: Array
) -> Sums:
    """Return the unweighted loss by quarters of the timesteps; the mean of an empty one is NaN.

    A high loss at high t means that the model fails at layout, at low t that it fails at detail.
    """
    sums, steps = {}, settings.schedule.train_steps
    bounds = [steps * quarter // NOISE_LEVELS for quarter in range(NOISE_LEVELS + 1)]
    for low, high in itertools.pairwise(bounds):
        sums[f"loss_at/t{low:03d}-{high - 1:03d}"] = _sum_selected(
            per_example, (t >= low) & (t < high)
        )
    return sums


def _sum_selected(per_example: Float[Array, "b"], chosen: Array) -> tuple[Array, Array]:
    return jnp.sum(jnp.where(chosen, per_example, 0.0)), jnp.sum(chosen).astype(jnp.float32)
