"""Held-out loss: fixed examples at fixed noise levels with fixed noise.

The training loss draws new timesteps and noise at every step, and its scatter is larger than the
difference between two models. Here each example is evaluated once for every task and timestep, with
noise that is a function of (seed, example key, timestep), so two checkpoints or two model sizes see
the same noise. The host sums the single losses in the examples' order, in float64, so the result
does not depend on how the examples were distributed over devices and hosts.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float64, Int

from omfa_jax.core.compile_notice import CompilationNotice
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS, make_noised_table
from omfa_jax.diffusion.loss import masked_mean
from omfa_jax.diffusion.noise import make_example_ids, make_example_keys
from omfa_jax.diffusion.partial import compute_target, corrupt, make_network_input
from omfa_jax.diffusion.schedule import get_alpha_sigma
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.parallel.global_arrays import ROW, make_global_batch
from omfa_jax.parallel.mesh import count_batch_shards, make_batch_sharding, make_replicated_sharding
from omfa_jax.train.gradient import get_manual_axes, get_manual_specs
from omfa_jax.train.objective import NOISE_LEVELS, ApplyFn, encode_batch

# rows that a device computes at once; fixed, so that its program and arithmetic are the same on
# every mesh
ROWS_PER_DEVICE = 4
LATENTS = tuple(f"{name}_latents" for name in (*COMPONENTS, "pose"))

HostBatch = dict[str, np.ndarray]
# (parameters, prompt table) -> the loss; a collective, so every process must call it
HeldOutLossFn = Callable[[Any, Mapping[str, Any]], "HeldOutLoss"]


@dataclass(frozen=True)
class HeldOutSettings:
    """The first `examples` of a split, each at `timesteps` evenly spaced noise levels.

    `timesteps` is a multiple of NOISE_LEVELS, so that each quarter of the schedule has the same
    number.
    """

    examples: int = 64
    timesteps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise OmfaError(f"held-out loss needs at least 1 example, got {self.examples}")
        if self.timesteps < 1 or self.timesteps % NOISE_LEVELS:
            raise OmfaError(
                "the noise levels of the held-out loss (config.eval.loss_timesteps,"
                f" --loss-timesteps) must be a multiple of {NOISE_LEVELS}, got {self.timesteps}"
            )


@dataclass(frozen=True)
class HeldOutLoss:
    """The loss (docs/method.md, section 5, with w = 1) of every example, timestep and task.

    Its unit is that of the prediction type, so epsilon and v are not comparable. `shares` are the
    tasks' shares of the training examples; tasks that are not trained are left out.
    """

    keys: tuple[str, ...]
    timesteps: tuple[int, ...]
    tasks: tuple[str, ...]
    shares: tuple[float, ...]
    train_steps: int
    values: Float64[np.ndarray, "examples timesteps tasks"]

    @property
    def total(self) -> float:
        """The mean over examples and timesteps, tasks weighted by their shares."""
        return float(self.per_example.mean())

    @property
    def per_example(self) -> Float64[np.ndarray, "examples"]:
        """Each example's loss, averaged like the total: for paired comparisons of two models."""
        return (self.values * np.array(self.shares)).sum(axis=2).mean(axis=1)

    @property
    def standard_error(self) -> float:
        """The total's standard error over the choice of examples; 0 for a single example."""
        count = len(self.keys)
        # over examples only: noise and timesteps are the same for all models
        return float(self.per_example.std(ddof=1) / count**0.5) if count > 1 else 0.0

    def to_scalars(self) -> dict[str, float]:
        """Return loss, loss/TASK and loss/tLOW-HIGH (one for each quarter of the timesteps)."""
        named = {f"loss/{task}": self.values[..., i].mean() for i, task in enumerate(self.tasks)}
        by_time = (self.values * np.array(self.shares)).sum(axis=2).mean(axis=0)
        times = np.array(self.timesteps)
        bounds = [self.train_steps * quarter // NOISE_LEVELS for quarter in range(NOISE_LEVELS + 1)]
        for low, high in itertools.pairwise(bounds):
            inside = (times >= low) & (times < high)
            named[f"loss/t{low:03d}-{high - 1:03d}"] = by_time[inside].mean()
        return {"loss": self.total} | {name: float(value) for name, value in named.items()}


def compute_noise_levels(count: int, train_steps: int) -> tuple[int, ...]:
    """Return the midpoints of `count` equal parts of the timesteps 0..train_steps - 1."""
    # midpoints, so that the mean over them estimates the mean over all timesteps
    return tuple((2 * part + 1) * train_steps // (2 * count) for part in range(count))


def make_heldout_batches(
    batches: Iterable[Mapping[str, np.ndarray]],
    encode: Callable[[Any], Any] | None,
) -> list[HostBatch]:
    """Return latents, has_pose, ids, keys and valid of each batch; images are encoded once.

    `batches` are those of `make_eval_iterator` on this process. Latents are kept as float16, as
    `omfa data latents` stores them, so that images and their stored latents give the same loss.
    `encode` takes ROWS_PER_DEVICE images in [-1, 1] at a time; batches of stored latents do not
    need it.
    """
    kept = []
    for batch in batches:

        def encode_in_parts(images: Array) -> Array:
            if encode is None:
                raise OmfaError("held-out loss on image records needs the model's VAE")
            parts = [
                encode(images[i : i + ROWS_PER_DEVICE])
                for i in range(0, len(images), ROWS_PER_DEVICE)
            ]
            return jnp.asarray(np.concatenate([np.asarray(part) for part in parts]))

        latents = encode_batch(batch, encode_in_parts)  # type: ignore[arg-type]
        arrays = {f"{name}_latents": np.asarray(v, np.float16) for name, v in latents.items()}
        facts = {name: np.asarray(batch[name]) for name in ("has_pose", "key", "valid")}
        kept.append({**arrays, **facts, "id": make_example_ids(batch["key"])})
    return kept


def make_heldout_loss_fn(
    diffusion: DiffusionSettings,
    settings: HeldOutSettings,
    apply: ApplyFn,
    mesh: Mesh,
    param_shardings: Any,
    batches: Sequence[HostBatch],
) -> HeldOutLossFn:
    """Return a function that computes the held-out loss over the `batches` of all processes.

    `apply` is that of `make_training_network` on the same mesh; sharded parameters stay sharded.
    """
    # a task of weight 0 was not trained, so its loss says nothing about the model
    tasks = [index for index, task in enumerate(diffusion.tasks) if task.weight > 0]
    weights = np.array([diffusion.tasks[index].weight for index in tasks])
    levels = compute_noise_levels(settings.timesteps, diffusion.schedule.train_steps)
    program = compile_loss(diffusion, apply, mesh, param_shardings, levels, tasks)
    root = jax.jit(
        lambda: jax.random.key(settings.seed), out_shardings=make_replicated_sharding(mesh)
    )()
    orders = [_in_order(mesh, batch) for batch in batches]
    notice = CompilationNotice("the held-out loss")

    def evaluate(params: Any, prompts: Mapping[str, Any]) -> HeldOutLoss:
        rows = []
        for batch, (_, order) in zip(batches, orders, strict=True):
            fed = make_global_batch(
                mesh, {name: batch[name] for name in (*LATENTS, "has_pose", "id")}
            )
            with notice():
                values = program(params, prompts, fed, root)
            # back to the data's order, which the mesh may have permuted
            rows.append(np.asarray(values, np.float64)[order])
        return HeldOutLoss(
            keys=tuple(key for keys, _ in orders for key in keys),
            timesteps=levels,
            tasks=tuple(diffusion.tasks[index].name for index in tasks),
            shares=tuple((weights / weights.sum()).tolist()),
            train_steps=diffusion.schedule.train_steps,
            values=np.concatenate(rows),
        )

    return evaluate


def compile_loss(
    diffusion: DiffusionSettings,
    apply: ApplyFn,
    mesh: Mesh,
    param_shardings: Any,
    levels: Sequence[int],
    tasks: Sequence[int],
) -> Callable[..., Float[Array, "b timesteps tasks"]]:
    """Return the jitted loss of a global batch, over one (timestep, task) pair after the other.

    A device's program has the same shapes on every mesh, and therefore the same arithmetic.
    """
    canvas, table = diffusion.canvas, jnp.asarray(make_noised_table(diffusion.tasks))
    axes, manual = get_manual_axes(mesh)

    def on_device(params: Any, prompts: Any, batch: Mapping[str, Array], root: Array) -> Array:
        latents = encode_batch(batch, _refuse_images)
        pose = canvas.assemble({"person": latents.pop("pose")})
        x0 = canvas.assemble(latents)
        rows = x0.shape[0]
        keys = make_example_keys(root, batch["id"])

        def evaluate(which: Array) -> Float[Array, "b"]:
            level, task = jnp.broadcast_to(which[0], (rows,)), jnp.broadcast_to(which[1], (rows,))
            mask = canvas.make_mask(table[task])
            # the noise is not a function of the task: tasks of one example see the same noise
            own = jax.vmap(lambda key: jax.random.fold_in(key, which[0]))(keys)
            eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(own)
            alpha, sigma = get_alpha_sigma(diffusion.schedule, level)
            xt = corrupt(x0, eps, mask, alpha, sigma)
            inputs = make_network_input(diffusion.unet_inputs, canvas, xt, mask, pose)
            output = apply(params, inputs, level, task, prompts)
            wanted = compute_target(diffusion.prediction, x0, eps, alpha, sigma)
            return masked_mean((output - wanted) ** 2, mask)

        pairs = jnp.array([(level, task) for level in levels for task in tasks], jnp.int32)
        # one pair at a time: memory is that of ROWS_PER_DEVICE examples whatever their number
        losses = jax.lax.map(evaluate, pairs)
        return losses.T.reshape(rows, len(levels), len(tasks))

    unsharded = PartitionSpec()
    if manual:
        on_device = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(
                get_manual_specs(param_shardings, manual),
                unsharded,
                PartitionSpec(axes),
                unsharded,
            ),
            out_specs=PartitionSpec(axes),
            axis_names=manual,
            check_vma=False,
        )
    return jax.jit(
        on_device,
        in_shardings=(
            param_shardings,
            make_replicated_sharding(mesh),
            make_batch_sharding(mesh),
            make_replicated_sharding(mesh),
        ),
        # replicated, because every process sums all losses in the same order
        out_shardings=make_replicated_sharding(mesh),
    )


def get_global_batch_size(mesh: Mesh) -> int:
    """Return the global batch size for `make_eval_iterator`: ROWS_PER_DEVICE for each device."""
    return ROWS_PER_DEVICE * count_batch_shards(mesh)


def sort_valid_rows(
    rows: Int[np.ndarray, "b"], valid: Bool[np.ndarray, "b"]
) -> Int[np.ndarray, "valid"]:
    """Return the indices of the valid rows of a global batch, in the data's order."""
    order = np.argsort(rows)
    return order[valid[order]]


def _in_order(mesh: Mesh, batch: HostBatch) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the keys of a global batch's examples and their indices in its arrays.

    Both are in the data's order, without the padding rows of the last batch.
    """
    # collectives carry numbers only, so the keys are sent as fixed-length bytes
    fixed = np.char.encode(batch["key"].astype(str), "utf-8").astype("S256")
    codes = fixed.view(np.uint8).reshape(len(fixed), -1)
    gathered = make_global_batch(mesh, {"key": codes, "valid": batch["valid"]})
    arrays = {name: _replicate(mesh, array) for name, array in gathered.items()}
    order = sort_valid_rows(arrays[ROW], arrays["valid"])
    names = np.ascontiguousarray(arrays["key"]).view("S256").ravel()
    return tuple(name.decode(errors="replace") for name in names[order]), order


def _replicate(mesh: Mesh, array: jax.Array) -> np.ndarray:
    return np.asarray(jax.jit(lambda a: a, out_shardings=make_replicated_sharding(mesh))(array))


def _refuse_images(_: Array) -> Array:
    raise OmfaError("the held-out loss takes latents: pass it the batches of make_heldout_batches")
