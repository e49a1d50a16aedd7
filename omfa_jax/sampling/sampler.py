"""The sampler: one compiled call from images and conditions to generated images."""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from omfa_jax.core.compile_notice import CompilationNotice
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed
from omfa_jax.core.tasks import COMPONENTS, find_task_index, make_noised_table
from omfa_jax.diffusion.denoising_loop import (
    SamplerSettings,
    StepCallback,
    make_sampler_plan,
)
from omfa_jax.diffusion.noise import make_example_keys
from omfa_jax.models import Compute
from omfa_jax.parallel.attention_kernels import get_attention_kernel, select_attention_kernel
from omfa_jax.sampling.sampler_program import SamplerProgram
from omfa_jax.weights.omfa_model import Model

log = logging.getLogger(__name__)

Images = Mapping[str, Float[np.ndarray, "b h w 3"]]
GeneratedImages = dict[str, UInt8[np.ndarray, "b h w 3"]]


def get_default_device() -> Any:
    """Return the device that a program without placement runs on.

    It is this process's first device, unless jax.default_device names another.
    """
    return next(iter(jnp.zeros(()).devices()))


def choose_dtype(asked: str, platform: str) -> str:
    """Return the dtype to sample in; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Accelerators have matrix units for bfloat16, and their attention kernels accept nothing wider.
    """
    if asked != "auto":
        return asked
    return "float32" if platform == "cpu" else "bfloat16"


class Sampler(SamplerProgram):
    """Generates the noised components of a task; compiled once per task and batch size.

    `dtype` is the networks' compute dtype: "auto" is bfloat16 on accelerators and float32
    elsewhere. Parameters stay float32, and the VAE follows its own rule (`models.vae`). With
    `devices`, all of this process, a batch is split evenly over them; each runs on its rows the
    program that it would run alone. Without, JAX's default device takes the full batch.
    `attention` names the kernel of image tokens, as config.train.attention does; "auto" depends on
    the sampler's own devices, whatever else the process or the job has. `on_step` is called with
    the number of steps done as each step of a call begins, for a progress bar.

    Raises OmfaError if the model has no UNet weights, or if `settings` visits a timestep that the
    model cannot denoise.

        sampler = Sampler(model, SamplerSettings(steps=50, guidance=2.0))
        images = sampler("try_on", {"garment": garment, "face": face}, pose, seed=0)["person"]
    """

    def __init__(
        self,
        model: Model,
        settings: SamplerSettings,
        *,
        dtype: str = "auto",
        devices: Sequence[Any] | None = None,
        attention: str = "auto",
        on_step: StepCallback | None = None,
    ):
        if model.unet_params is None:
            raise OmfaError("this model has no UNet weights; load a trained model (--checkpoint)")
        # raises for impossible timesteps now, before anything is trained or compiled
        make_sampler_plan(model.settings, settings)
        used = list(devices) if devices else [get_default_device()]
        platform = used[0].platform
        dtype = choose_dtype(dtype, platform)
        # each device runs the complete program on its own rows, so the kernel is never sharded
        kernel = select_attention_kernel(attention, platform, dtype)
        log.info(
            "sampling in %s on %d x %s; attention among image tokens: %s",
            *(dtype, len(used), used[0].device_kind, kernel),
        )
        compute = Compute(jnp.dtype(dtype), kernel=get_attention_kernel(kernel))
        super().__init__(model, settings, compute, on_step=on_step)
        self.dtype = dtype
        self._table = make_noised_table(model.settings.tasks)
        self.devices = len(used)
        self._mesh = Mesh(np.asarray(used, object), ("rows",), axis_types=(AxisType.Auto,))
        # placed once: a converted model's arrays are memory-mapped files, copied by every call
        self._unet_params = self.replicate(model.unet_params)
        self._constants = self.replicate({"vae": model.vae_params, "prompts": model.prompts})
        self._run = jax.jit(self._run_sharded, static_argnames="noised")
        self._notice = CompilationNotice("the sampler")

    def replicate(self, tree: Any) -> Any:
        """Return a tree replicated on the sampler's devices, for calls with `params`."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def __call__(
        self,
        task: str,
        given: Images,
        pose: Float[np.ndarray, "b h w 3"] | None,
        *,
        seed: int,
        has_pose: Bool[np.ndarray, "b"] | None = None,
        params: Any = None,
        ids: UInt32[np.ndarray, "b 2"] | None = None,
    ) -> GeneratedImages:
        """Return the task's noised components as uint8 (b, h, w, 3).

        `given` holds the clean components, in [-1, 1] at the slot sizes; a component that is
        neither given nor generated is null (zero latents). `pose` None is the null pose, and so is
        an example's pose where `has_pose` is False, as in training. `params` replaces the model's
        UNet parameters (for instance by a training run's EMA). Example i of a batch gets the same
        noise for any batch size; with `ids` (see `diffusion.noise`) the noise is a function of the
        seed and the example's id, not of its position. OmfaError for an unknown task, for inputs of
        different batch sizes, and for a batch that the devices cannot share evenly.
        """
        output = self.dispatch(
            task, given, pose, seed=seed, has_pose=has_pose, params=params, ids=ids
        )
        images = {name: from_signed(np.asarray(images)) for name, images in output.items()}
        if self._on_step is not None:
            # calls may still be under way when the images are there
            jax.effects_barrier()
        return images

    def dispatch(
        self,
        task: str,
        given: Images,
        pose: Float[np.ndarray, "b h w 3"] | None,
        *,
        seed: int,
        has_pose: Bool[np.ndarray, "b"] | None = None,
        params: Any = None,
        ids: UInt32[np.ndarray, "b 2"] | None = None,
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Dispatch a call and return its images, in [-1, 1], without waiting for the devices."""
        model = self.model
        row = find_task_index(model.settings.tasks, task)
        noised = tuple(bool(flag) for flag in self._table[row])
        wanted = [name for name, flag in zip(COMPONENTS, noised, strict=True) if flag]
        clean = {name: given[name] for name in COMPONENTS if name in given and name not in wanted}
        count = self._count_examples(task, clean if pose is None else {**clean, "pose": pose})
        if count % self.devices:
            raise OmfaError(
                f"a batch of {count} examples cannot be split evenly over {self.devices} devices"
            )
        root = jax.random.key(seed)
        if ids is None:
            # by position: the first images of a batch stay the same when the batch grows
            keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(count))
        else:
            keys = make_example_keys(root, ids)
        given_pose = None if pose is None or has_pose is None else jnp.asarray(has_pose)
        # what the program depends on
        key = (noised, count, *clean, pose is None, given_pose is None, params is None)
        with self._notice(*key):
            return self._run(
                self._unet_params if params is None else self.replicate(params),
                self._constants,
                clean,
                pose,
                given_pose,
                jnp.int32(row),
                keys,
                noised=noised,
            )

    def _count_examples(self, task: str, images: Mapping[str, Any]) -> int:
        """Return the batch size; OmfaError for images that do not fill their slots."""
        slots = dict(zip(COMPONENTS, self.model.settings.slots_px, strict=True))
        for name, batch in images.items():
            height, width = slots["person" if name == "pose" else name]
            if np.shape(batch)[1:] != (height, width, 3):
                raise OmfaError(
                    f"{name}: expected RGB images of {width}x{height} px in an array (batch,"
                    f" {height}, {width}, 3), got one of shape {np.shape(batch)};"
                    " SlotFitter.fit_images letter-boxes images of any size"
                )
        counts = {name: len(batch) for name, batch in images.items()}
        if len(set(counts.values())) != 1:
            found = ", ".join(f"{n} of {name}" for name, n in counts.items()) or "no input"
            raise OmfaError(f"task {task!r}: the inputs must have one batch size, got {found}")
        return next(iter(counts.values()))

    def _run_sharded(self, params, constants, clean, pose, has_pose, row, keys, *, noised):
        # shard_map and not jit's own partitioning: each device runs the program of a single one,
        # so an image does not depend on how many devices there are
        replicated, rows = PartitionSpec(), PartitionSpec("rows")
        generate = jax.shard_map(
            functools.partial(self.generate, noised=noised),
            mesh=self._mesh,
            in_specs=(replicated, replicated, rows, rows, rows, replicated, rows),
            out_specs=rows,
            check_vma=False,
        )
        return generate(params, constants, clean, pose, has_pose, row, keys)
