"""Held-out loss: fixed examples at fixed noise levels with fixed noise, for curves and studies.

Training's loss draws timesteps and noise anew, which scatters it by more than two models differ.
Here every example is looked at once a task and timestep, and the noise of that look is a function
of (seed, the example's key, timestep): two checkpoints, or two sizes of model, see the same. Losses
leave the device one by one and are summed on the host in the examples' order, in float64, so the
figure does not depend on how the examples were dealt to devices and hosts.
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

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS, noised_table
from omfa_jax.diffusion.loss import masked_mean
from omfa_jax.diffusion.noise import example_ids, example_keys
from omfa_jax.diffusion.partial import corrupt, network_input, target
from omfa_jax.diffusion.schedule import alpha_sigma
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.parallel.feed import ROW, to_global
from omfa_jax.parallel.mesh import batch_parts, batch_sharding, replicated
from omfa_jax.train.gradient import manual_axes, specs_within
from omfa_jax.train.objective import NOISE_LEVELS, Apply, batch_latents

# rows that a device computes at once; an example's place among them is its number's remainder
ROWS = 4
LATENTS = tuple(f"{name}_latents" for name in (*COMPONENTS, "pose"))

HostBatch = dict[str, np.ndarray]
# (parameters, prompt table) -> the loss; every process of the job calls it
HeldOut = Callable[[Any, Mapping[str, Any]], "HeldOutLoss"]


@dataclass(frozen=True)
class HeldOutSettings:
    """The first `examples` of a split, each at `timesteps` evenly spaced noise levels.

    `timesteps` is a multiple of NOISE_LEVELS, so that every quarter of the schedule holds as many.
    """

    examples: int = 64
    timesteps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise OmfaError(f"held-out loss needs 1 example or more, got {self.examples}")
        if self.timesteps < 1 or self.timesteps % NOISE_LEVELS:
            raise OmfaError(
                "the noise levels of the held-out loss (config.eval.timesteps, --loss-timesteps)"
                f" must be a multiple of {NOISE_LEVELS}, got {self.timesteps}"
            )


@dataclass(frozen=True)
class HeldOutLoss:
    """The unweighted loss (equation 3, w = 1) of every example, timestep and task.

    It is in units of the prediction type, so epsilon and v do not compare. `shares` are the tasks'
    shares of the training examples; a task that is not trained is not here.
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
        """Each example's part of the total: what two models are compared by, pair by pair."""
        return (self.values * np.array(self.shares)).sum(axis=2).mean(axis=1)

    @property
    def standard_error(self) -> float:
        """Of the total, for another choice of as many examples; 0 for a single one."""
        count = len(self.keys)
        return float(self.per_example.std(ddof=1) / count**0.5) if count > 1 else 0.0

    def scalars(self) -> dict[str, float]:
        """Return loss, loss/TASK and loss/tLOW-HIGH (quarters of the timesteps)."""
        named = {f"loss/{task}": self.values[..., i].mean() for i, task in enumerate(self.tasks)}
        by_time = (self.values * np.array(self.shares)).sum(axis=2).mean(axis=0)
        times = np.array(self.timesteps)
        bounds = [self.train_steps * quarter // NOISE_LEVELS for quarter in range(NOISE_LEVELS + 1)]
        for low, high in itertools.pairwise(bounds):
            inside = (times >= low) & (times < high)
            named[f"loss/t{low:03d}-{high - 1:03d}"] = by_time[inside].mean()
        return {"loss": self.total} | {name: float(value) for name, value in named.items()}


def noise_levels(count: int, train_steps: int) -> tuple[int, ...]:
    """Return the middles of `count` equal parts of the timesteps 0..train_steps - 1."""
    return tuple((2 * part + 1) * train_steps // (2 * count) for part in range(count))


def held_out_batches(
    batches: Iterable[Mapping[str, np.ndarray]],
    encode: Callable[[Any], Any] | None,
) -> list[HostBatch]:
    """Return latents, has_pose, ids, keys and valid of each batch, encoding pictures once.

    `batches` are `eval_batches`' of this process. Latents are kept as float16, as `omfa data
    latents` stores them: pictures and their stored latents then give the same loss. `encode` takes
    ROWS pictures in [-1, 1] at a time; stored latents need none.
    """
    kept = []
    for batch in batches:

        def encoded(pictures: Array) -> Array:
            if encode is None:
                raise OmfaError("held-out loss on image records needs the model's VAE")
            parts = [encode(pictures[i : i + ROWS]) for i in range(0, len(pictures), ROWS)]
            return jnp.asarray(np.concatenate([np.asarray(part) for part in parts]))

        latents = batch_latents(batch, encoded)  # type: ignore[arg-type]
        arrays = {f"{name}_latents": np.asarray(v, np.float16) for name, v in latents.items()}
        facts = {name: np.asarray(batch[name]) for name in ("has_pose", "key", "valid")}
        kept.append({**arrays, **facts, "id": example_ids(batch["key"])})
    return kept


def held_out(
    diffusion: DiffusionSettings,
    settings: HeldOutSettings,
    apply: Apply,
    mesh: Mesh,
    param_shardings: Any,
    batches: Sequence[HostBatch],
) -> HeldOut:
    """Return the loss of this process's `batches` and the other processes', as one function.

    `apply` is `trained_network`'s on the same mesh: parameters that are cut over fsdp stay cut.
    """
    tasks = [index for index, task in enumerate(diffusion.tasks) if task.weight > 0]
    weights = np.array([diffusion.tasks[index].weight for index in tasks])
    levels = noise_levels(settings.timesteps, diffusion.schedule.train_steps)
    program = loss_program(diffusion, apply, mesh, param_shardings, levels, tasks)
    root = jax.jit(lambda: jax.random.key(settings.seed), out_shardings=replicated(mesh))()
    orders = [_in_order(mesh, batch) for batch in batches]

    def evaluate(params: Any, prompts: Mapping[str, Any]) -> HeldOutLoss:
        rows = []
        for batch, (_, order) in zip(batches, orders, strict=True):
            fed = to_global(mesh, {name: batch[name] for name in (*LATENTS, "has_pose", "id")})
            rows.append(np.asarray(program(params, prompts, fed, root), np.float64)[order])
        return HeldOutLoss(
            keys=tuple(key for keys, _ in orders for key in keys),
            timesteps=levels,
            tasks=tuple(diffusion.tasks[index].name for index in tasks),
            shares=tuple((weights / weights.sum()).tolist()),
            train_steps=diffusion.schedule.train_steps,
            values=np.concatenate(rows),
        )

    return evaluate


def loss_program(
    diffusion: DiffusionSettings,
    apply: Apply,
    mesh: Mesh,
    param_shardings: Any,
    levels: Sequence[int],
    tasks: Sequence[int],
) -> Callable[..., Float[Array, "b timesteps tasks"]]:
    """Return the compiled loss of a global batch: each device its rows, one look after the other.

    A device's program has the same shapes on every mesh, and so the same arithmetic.
    """
    canvas, table = diffusion.canvas, jnp.asarray(noised_table(diffusion.tasks))
    axes, manual = manual_axes(mesh)

    def on_device(params: Any, prompts: Any, batch: Mapping[str, Array], root: Array) -> Array:
        latents = batch_latents(batch, _no_pictures)
        pose = canvas.assemble({"person": latents.pop("pose")})
        x0 = canvas.assemble(latents)
        rows = x0.shape[0]
        keys = example_keys(root, batch["id"])

        def look(which: Array) -> Float[Array, "b"]:
            level, task = jnp.broadcast_to(which[0], (rows,)), jnp.broadcast_to(which[1], (rows,))
            mask = canvas.mask(table[task])
            own = jax.vmap(lambda key: jax.random.fold_in(key, which[0]))(keys)
            eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(own)
            alpha, sigma = alpha_sigma(diffusion.schedule, level)
            xt = corrupt(x0, eps, mask, alpha, sigma)
            inputs = network_input(diffusion.unet_inputs, canvas, xt, mask, pose)
            output = apply(params, inputs, level, task, prompts)
            wanted = target(diffusion.prediction, x0, eps, alpha, sigma)
            return masked_mean((output - wanted) ** 2, mask)

        looks = jnp.array([(level, task) for level in levels for task in tasks], jnp.int32)
        losses = jax.lax.map(look, looks)
        return losses.T.reshape(rows, len(levels), len(tasks))

    whole = PartitionSpec()
    if manual:
        on_device = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(specs_within(param_shardings, manual), whole, PartitionSpec(axes), whole),
            out_specs=PartitionSpec(axes),
            axis_names=manual,
            check_vma=False,
        )
    return jax.jit(
        on_device,
        in_shardings=(param_shardings, replicated(mesh), batch_sharding(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )


def global_rows(mesh: Mesh) -> int:
    """Return the batch size that `eval_batches` is to give the mesh: ROWS a device."""
    return ROWS * batch_parts(mesh)


def examples_in_order(
    rows: Int[np.ndarray, "b"], valid: Bool[np.ndarray, "b"]
) -> Int[np.ndarray, "valid"]:
    """Return where a batch's valid examples lie in its global arrays, in the data's order."""
    order = np.argsort(rows)
    return order[valid[order]]


def _in_order(mesh: Mesh, batch: HostBatch) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the keys of all processes' examples of a batch, and where in its arrays they lie.

    Both are in the examples' order, without the rows that fill up the last batch.
    """
    fixed = np.char.encode(batch["key"].astype(str), "utf-8").astype("S256")
    codes = fixed.view(np.uint8).reshape(len(fixed), -1)
    gathered = to_global(mesh, {"key": codes, "valid": batch["valid"]})
    whole = {name: _everywhere(mesh, array) for name, array in gathered.items()}
    order = examples_in_order(whole[ROW], whole["valid"])
    names = np.ascontiguousarray(whole["key"]).view("S256").ravel()
    return tuple(name.decode(errors="replace") for name in names[order]), order


def _everywhere(mesh: Mesh, array: jax.Array) -> np.ndarray:
    return np.asarray(jax.jit(lambda a: a, out_shardings=replicated(mesh))(array))


def _no_pictures(_: Array) -> Array:
    raise OmfaError("the held-out loss takes latents; give it held_out_batches' rows")
