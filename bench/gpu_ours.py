"""This package's side of `bench/gpu.py`: the training step and the sampler, compiled once."""

import functools
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu_pictures import make_pictures
from bench.gpu_settings import (
    Case,
    count_step_flops,
    get_unet,
    get_vae,
    make_diffusion,
    make_job,
)
from bench.kernel_profile import attach_sources, read_profile, sum_by
from omfa_jax.core import trees
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.models import get_unet_shapes, get_vae_shapes
from omfa_jax.parallel.hardware import USABLE_FRACTION, find_chip
from omfa_jax.parallel.mesh import (
    MeshSettings,
    make_batch_sharding,
    make_mesh,
    make_replicated_sharding,
)
from omfa_jax.planning.job import TrainingJob
from omfa_jax.planning.memory import compute_activation_bytes
from omfa_jax.train.aot_step import AotStep, make_aot_step
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.state import TrainState
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.text_encoders import TEXT_TOKENS

WARM_UP_STEPS = 2
PROFILED_STEPS = 3
# kernels and source lines that the JSON keeps
KEPT_ROWS = 40


class DoesNotFit(Exception):
    """A step that needs more memory than the device has."""


class TrainingSide:
    """A compiled training step with its state and a batch on the device."""

    def __init__(self, case: Case, *, tiny: bool):
        job = make_job(case, tiny=tiny)
        self.facts: dict[str, Any] = {"model_flops": count_step_flops(job)}
        mesh = make_mesh(MeshSettings(), jax.devices()[:1])
        start = time.perf_counter()
        ahead = make_aot_step(job.diffusion, job.unet, job.train, mesh)
        check_memory(ahead, job)
        lowered = ahead.lower()
        traced = time.perf_counter()
        self.compiled = lowered.compile()
        compiled = time.perf_counter()
        memory: Any = self.compiled.memory_analysis()
        self.facts |= {
            "trace_s": traced - start,
            "compile_s": compiled - traced,
            "cudnn_attention": "__cudnn$fmha" in lowered.as_text(),
            "planned_bytes": memory and memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        }
        self.state = draw_state(ahead, job)
        rows, whole = make_batch_sharding(mesh), make_replicated_sharding(mesh)
        self.batch = jax.device_put(draw_batch(ahead, job), rows)
        self.constants = jax.device_put(draw_arrays(ahead.constants), whole)
        self.key = jax.device_put(jax.random.key(0), whole)
        start = time.perf_counter()
        self.turn(1)
        self.facts |= {"first_step_s": time.perf_counter() - start}
        self.turn(WARM_UP_STEPS)

    def turn(self, steps: int) -> dict[str, Any]:
        """Train `steps` steps without waiting between them; return the seconds of one."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.compiled(self.state, self.constants, self.batch, self.key)
        jax.block_until_ready((self.state, metrics))
        seconds = (time.perf_counter() - start) / steps
        return {"seconds": seconds, "loss": float(metrics["loss"])}

    def profile(self, folder: Path) -> dict[str, Any]:
        """Return the seconds of a step by kernel and by source line, the dearest first."""
        jax.profiler.start_trace(str(folder))
        try:
            self.turn(PROFILED_STEPS)
        finally:
            jax.profiler.stop_trace()
        events = read_profile(folder)
        attach_sources(events, self.compiled.as_text() or "")
        for event in events:
            event.seconds /= PROFILED_STEPS
        return {
            "busy_s": sum(event.seconds for event in events),
            "kernels": sum_by(events, "name")[:KEPT_ROWS],
            "sources": sum_by(events, "source")[:KEPT_ROWS],
        }

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the process."""
        return {"peak_bytes": get_peak_bytes()}


class SamplingSide:
    """The compiled sampler; a turn generates pictures of one try-on, one after the other."""

    def __init__(self, *, steps: int, tiny: bool):
        from omfa_jax.core.images import to_signed
        from omfa_jax.sampling.sampler import Sampler

        diffusion, vae = make_diffusion(tiny=tiny), get_vae(tiny=tiny)
        unet = get_unet(diffusion, tiny=tiny)
        rows = len(diffusion.tasks) + 1
        prompts = {
            "context": np.zeros((rows, TEXT_TOKENS, unet.context_dim), np.float32),
            "pooled": np.zeros((rows, unet.pooled_dim), np.float32),
        }
        rng = np.random.default_rng(0)
        prompts = {k: rng.standard_normal(v.shape, np.float32) for k, v in prompts.items()}
        model = Model(
            diffusion,
            unet,
            vae,
            draw_params(get_unet_shapes(unet)),
            draw_params(get_vae_shapes(vae)),
            prompts,
        )
        given, pose = make_pictures(diffusion.slots_px)
        images = {name: to_signed(picture)[None] for name, picture in given.items()}
        sampler = Sampler(model, SamplerSettings(steps, 2.0), dtype=choose_dtype())
        self.sample = functools.partial(sampler, "try_on", images, to_signed(pose)[None], seed=0)
        start = time.perf_counter()
        self.sample()
        self.facts = {"first_picture_s": time.perf_counter() - start}

    def turn(self, pictures: int) -> dict[str, Any]:
        """Generate `pictures` pictures; return the seconds of one."""
        start = time.perf_counter()
        for _ in range(pictures):
            self.sample()
        return {"seconds": (time.perf_counter() - start) / pictures}

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the process."""
        return {"peak_bytes": get_peak_bytes()}


def choose_dtype() -> str:
    """Return the compute dtype: bfloat16 on a GPU."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def check_memory(ahead: AotStep, job: TrainingJob) -> None:
    """Raise DoesNotFit for a step that by formula needs far more than the device has."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if not limit:
        return
    # omfa plan's formula; the plan itself also needs the data pipeline's packages
    kept = compute_activation_bytes(
        job.diffusion,
        job.unet,
        job.train,
        job.train.batch_size,
        fused_attention=jax.default_backend() == "gpu",
        text_tokens=TEXT_TOKENS,
    )
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(ahead.state)]
    need = sum(sizes) + kept
    # the formula is within 12% of the compilers' plans (docs/plans.md)
    if need > 1.15 * limit:
        raise DoesNotFit(f"by formula {need / 2**30:.0f} GiB of {limit / 2**30:.0f}")


def draw_params(shapes: Any) -> dict[str, Any]:
    """Return random parameters on the device: kernels of PyTorch's scale, scales 1, biases 0.

    One small program for each shape: `init_unet` is one for all, which takes far longer to compile.
    """
    drawn = {}
    for index, (path, leaf) in enumerate(trees.flatten(shapes)):
        shape = tuple(leaf.shape)
        if path[-1] == "kernel":
            fan_in = math.prod(shape[1:-1] if "transformer_blocks" in path else shape[:-1])
            drawn[path] = _uniform(np.uint32(index), np.float32(fan_in**-0.5), shape)
        else:
            drawn[path] = (jnp.ones if path[-1] == "scale" else jnp.zeros)(shape)
    return trees.unflatten(drawn)


@functools.partial(jax.jit, static_argnames="shape")
def _uniform(seed: Any, scale: Any, shape: tuple[int, ...]) -> jax.Array:
    # threefry's programs take XLA seconds each
    key = jax.random.key(seed, impl="unsafe_rbg")
    return scale * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def draw_state(ahead: AotStep, job: TrainingJob) -> TrainState:
    """Return the state before the first step, never holding more than it takes."""
    params = draw_params(ahead.state.params)
    ema = jax.tree.map(jnp.copy, params) if job.train.ema_decay else None
    optimizer = make_optimizer(job.train.optimizer, job.train.steps)
    moments = jax.jit(optimizer.init)(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, ema, moments)
    return jax.device_put(state, ahead.shardings)


def draw_batch(ahead: AotStep, job: TrainingJob) -> dict[str, np.ndarray]:
    """Return a batch of random latents, the tasks in turn, each example with a pose."""
    batch = draw_arrays(ahead.batch)
    return batch | {"task": batch["task"] % len(job.diffusion.tasks)}


def draw_arrays(shapes: Any) -> Any:
    """Return normal numbers, True, or 0, 1, 2, ... of these shapes; never zeros, which run fast."""
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        if leaf.dtype == bool:
            return np.ones(leaf.shape, bool)
        return np.arange(leaf.shape[0], dtype=leaf.dtype)

    return jax.tree.map(draw, shapes)


def get_peak_bytes() -> int | None:
    """Return the device's peak memory since the process began; None where none is counted."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def describe_device() -> dict[str, Any]:
    """Return the device, the versions, and its measured and its data sheet's ceilings."""
    import jaxlib

    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    chip = find_chip(device.device_kind)
    side, elements = (512, 1 << 20) if on_cpu else (8192, 1 << 30)
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((side, side), np.float32), jnp.bfloat16)
    product = time_call(jax.jit(jnp.matmul), a, a)
    copy = time_call(jax.jit(lambda x: x + 1), jnp.ones(elements, jnp.float32))
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "backend": str(getattr(device.client, "platform_version", "")).splitlines()[:3],
        "memory_limit_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "usable_fraction": USABLE_FRACTION,
        "bf16_flops": chip and chip.bf16_flops,
        "memory_bandwidth": chip and chip.memory_bandwidth,
        "measured_bf16_flops": 2 * side**3 / product,
        "measured_bandwidth": 8 * elements / copy,
    }


def time_call(function: Any, *arguments: Any, repeats: int = 10) -> float:
    """Return the seconds of a call, the mean of `repeats` after two that are not counted."""
    for _ in range(2):
        jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    for _ in range(repeats):
        output = function(*arguments)
    jax.block_until_ready(output)
    return (time.perf_counter() - start) / repeats
