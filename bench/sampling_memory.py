"""Memory of sampling as `omfa plan` gives it, and as the compiler plans the whole sampler.

    PYTHONPATH=. python bench/sampling_memory.py --config configs/tiny.py           # for this CPU
    PYTHONPATH=. python bench/sampling_memory.py --config configs/vitonhd.py --topology h200-1

Nothing is run: the second form needs the compiler of `omfa plan --compile`, and no GPU.
"""

import argparse
import contextlib
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jax.sharding import SingleDeviceSharding

from omfa_jax.cli import config_lib
from omfa_jax.cli.plan_command import make_job
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.models import Compute, get_unet_shapes, get_vae_shapes
from omfa_jax.parallel.attention_kernels import get_attention_kernel, select_attention_kernel
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.aot import compile_at_least_effort, describe_devices
from omfa_jax.planning.frozen_vae import compute_sampling_memory
from omfa_jax.sampling.sampler import choose_dtype
from omfa_jax.sampling.sampler_program import SamplerProgram
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.text_encoders import TEXT_TOKENS


def compile_sampler(job, settings, task, pictures, device, dtype, kernel):
    """Return the compiler's memory of one call that generates `pictures` of a task."""
    diffusion, names = job.diffusion, dict(zip(COMPONENTS, job.diffusion.slots_px, strict=True))
    unet, vae = get_unet_shapes(job.unet), get_vae_shapes(job.vae)
    rows = len(diffusion.tasks) + 1
    prompts = {
        "context": Shape((rows, TEXT_TOKENS, job.unet.context_dim), jnp.float32),
        "pooled": Shape((rows, job.unet.pooled_dim), jnp.float32),
    }
    model = Model(diffusion, job.unet, job.vae, unet, vae, prompts)
    program = SamplerProgram(model, settings, Compute(jnp.dtype(dtype), kernel=kernel))
    images = {name: Shape((pictures, *size, 3), jnp.float32) for name, size in names.items()}
    arguments = (
        unet,
        {"vae": vae, "prompts": prompts},
        {name: image for name, image in images.items() if name not in task.noised},
        images["person"],
        Shape((pictures,), jnp.bool_),
        Shape((), jnp.int32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), pictures)),
    )
    placed = jax.tree.map(
        lambda leaf: Shape(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device)), arguments
    )
    noised = tuple(name in task.noised for name in COMPONENTS)
    lowered = jax.jit(lambda *given: program.generate(*given, noised=noised)).lower(*placed)
    return lowered.compile().memory_analysis()


def main() -> None:
    """Print a row for each number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", default="", help="such as h200-1 (default: this CPU)")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 4])
    options, overrides = parser.parse_known_args()
    config = config_lib.load_config(options.config, overrides)
    job, settings = make_job(config), config_lib.make_sampler_settings(config)
    if options.topology:
        topology = parse_topology(options.topology)
        device, platform = describe_devices(topology)[0], topology.platform
    else:
        device, platform = jax.devices()[0], "cpu"
    dtype = choose_dtype("auto", platform)
    kernel = select_attention_kernel("auto", platform, dtype)
    print("pictures, GiB: plan (weights + working), compiler (arguments + temporaries), ratio")
    for pictures in options.pictures:
        planned = compute_sampling_memory(
            job.diffusion,
            job.unet,
            job.vae,
            pictures,
            guidance=settings.guidance != 1,
            dtype=dtype,
            fused_attention=kernel != "xla",
        )
        start = time.perf_counter()
        with compile_at_least_effort() if options.topology else contextlib.nullcontext():
            found = compile_sampler(
                job,
                settings,
                job.diffusion.tasks[0],
                pictures,
                device,
                dtype,
                get_attention_kernel(kernel),
            )
        working = planned.peak_bytes - planned.weights_bytes
        temporary = found.temp_size_in_bytes + found.output_size_in_bytes
        both = planned.peak_bytes, found.argument_size_in_bytes + temporary
        print(
            f"{pictures:3}: {both[0] / 2**30:.4f} ({planned.weights_bytes / 2**30:.4f} +"
            f" {working / 2**30:.4f}), {both[1] / 2**30:.4f}"
            f" ({found.argument_size_in_bytes / 2**30:.4f} + {temporary / 2**30:.4f}),"
            f" {both[0] / both[1]:.3f}; {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
