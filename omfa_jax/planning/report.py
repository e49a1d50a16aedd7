"""A plan as text and as JSON."""

import dataclasses
from typing import Any

from omfa_jax.planning.aot import CompiledStats
from omfa_jax.planning.frozen_vae import SamplingMemory
from omfa_jax.planning.job import Plan, TrainingJob
from omfa_jax.planning.storage_traffic import StorageTraffic


def format_plan(job: TrainingJob, made: Plan, efficiency: float) -> str:
    """Return the plan as text."""
    gib = 2**30
    sizes = [f"{axis} {size}" for axis, size in made.mesh.items() if size > 1]
    mesh = " x ".join(sizes) or "1 device"
    cut = "".join(f"; {axis} shards {share:.1%} of weights" for axis, share in made.cut.items())
    lines = [
        f"{made.topology.name}: {made.topology.describe()}",
        f"{made.params:,} parameters, {describe_inputs(job)}, batch {job.train.batch_size} in"
        f" {job.train.grad_accum_steps} microbatch(es), {job.train.compute_dtype}, remat"
        f" {made.remat}, attention {made.attention}",
        f"mesh {mesh}{cut}",
        describe_data(job, made),
        "",
        "memory per device, GiB",
        *(f"  {name:40}{size / gib:10.2f}" for name, size in made.memory.items() if size),
        f"  {'peak':40}{made.peak_bytes / gib:10.2f}  of"
        f" {made.usable_bytes / gib:.1f} ({made.usable:.0%} of the device's):"
        f" {'fits' if made.fits else 'DOES NOT FIT'}",
        "",
        *(["received per device and step, GB"] if made.traffic else ["one device: no traffic"]),
        *(f"  {name:40}{size / 1e9:10.2f}" for name, size in made.traffic.items()),
        "",
        f"FLOPs per step                            {made.model_flops:10.3e}"
        f"{describe_executed_flops(made)}",
        f"compute time, assuming {efficiency:4.0%} of peak       {made.compute_seconds:10.3f} s",
        f"communication time                        {made.traffic_seconds:10.3f} s",
        f"step time, full / no overlap              {made.step_seconds:10.3f} s /"
        f" {made.bare_step_seconds:.3f} s",
        f"MFU, full overlap                         {made.mfu:10.1%}",
        f"{job.train.steps:,} steps                            "
        f"{job.train.steps * made.step_seconds / 3600:10.1f} h",
        "",
        *format_storage(made.storage),
        *describe_slow_saves(job, made),
    ]
    return "\n".join(lines)


def describe_executed_flops(made: Plan) -> str:
    """Return the FLOPs with all that is not the trained network's own; "" if there are none."""
    parts = {"remat": made.remat != "none", "the VAE's encoder": bool(made.frozen_flops)}
    more = " and ".join(name for name, is_there in parts.items() if is_there)
    return f", {made.executed_flops:.3e} with {more}" if more else ""


def describe_slow_saves(job: TrainingJob, made: Plan) -> list[str]:
    """Return a line if a save is not done when the next begins, for which training then waits."""
    between = job.train.save_every_steps * made.step_seconds
    if made.storage.save_seconds <= between:
        return []
    return [
        f"a save takes longer than the {between:.1f} s between saves, and training waits for it:"
        " raise config.checkpoint.every_steps"
    ]


def describe_inputs(job: TrainingJob) -> str:
    """Return what a step reads: the canvas in latents, or the VAE's crops."""
    if job.crop_px:
        part = "decoder" if job.decoder_only else "VAE"
        return f"the {part} on crops of {job.crop_px}x{job.crop_px} px"
    height, width, _ = job.diffusion.canvas.shape
    return f"canvas {height}x{width}"


def describe_data(job: TrainingJob, made: Plan) -> str:
    """Return what training reads, and what the other choice would change."""
    if job.crop_px:
        return "from pictures, four crops of each example"
    if not job.encodes:
        return (
            "from stored latents (config.data.latents); from pictures (config.data.records) the"
            " step would run the VAE's encoder, too"
        )
    without = made.executed_flops - made.frozen_flops
    faster = max(made.compute_seconds * without / made.executed_flops, made.traffic_seconds)
    names = ("frozen VAE", "encoding, beyond the activations")
    memory = sum(made.memory[name] for name in names) / 2**30
    return (
        f"from pictures: the VAE's encoder adds {made.frozen_flops / without:.0%} to a step's"
        " FLOPs; stored latents (`omfa data latents`, config.data.latents) would save"
        f" {made.step_seconds - faster:.3f} s a step and {memory:.2f} GiB per device"
    )


def format_storage(storage: StorageTraffic) -> list[str]:
    """Return the lines on what is read and written, at the assumed rate."""
    hosts = f"{storage.hosts} host" + "s" * (storage.hosts > 1)
    weights = "initial weights and" if storage.weights_bytes else "no initial weights;"
    return [
        f"storage, bucket or disk, at {storage.rate / 1e9:g} GB/s for each of {hosts}",
        f"  {'a save, by all hosts, GB':40}{storage.checkpoint_bytes / 1e9:10.2f} "
        f" {storage.save_seconds:.1f} s, beside training",
        f"  {'a restore, read by each host, GB':40}{storage.restore_bytes / 1e9:10.2f} "
        f" {storage.restore_seconds:.1f} s",
        f"  {f'{weights} first batch, GB':40}"
        f"{(storage.weights_bytes + storage.batch_bytes) / 1e9:10.2f} "
        f" {storage.start_seconds:.1f} s, read by each host",
    ]


def format_sampling(sampling: SamplingMemory, made: Plan, guidance: float) -> str:
    """Return the memory of sampling as text; `guidance` is its scale, 1 for none."""
    gib, found = 2**30, "fits" if sampling.peak_bytes <= made.usable_bytes else "DOES NOT FIT"
    return "\n".join(
        [
            "",
            f"`omfa sample` in bfloat16, {sampling.pictures} at once on one device"
            f" (--sample-batch-size), guidance {guidance:g}, GiB",
            f"  {'weights, float32':40}{sampling.weights_bytes / gib:10.2f}",
            f"  {'a copy in bfloat16, without the blocks':40}{sampling.cast_bytes / gib:10.2f}",
            f"  {'a call of the UNet':40}{sampling.unet_bytes / gib:10.2f}",
            f"  {'decoding':40}{sampling.vae_bytes / gib:10.2f}",
            f"  {'peak':40}{sampling.peak_bytes / gib:10.2f}  {found}; at most about"
            f" {sampling.count_fitting(made.usable_bytes)} at once fit",
        ]
    )


def format_compiled(made: Plan, compiled: CompiledStats) -> str:
    """Return the compiler's figures next to the plan's, as text."""
    gib = 2**30
    lines = [
        "",
        f"compiled in {compiled.seconds:.0f} s; memory per device, GiB",
        f"  {'state and batch':40}{compiled.argument_bytes / gib:10.2f}",
        f"  {'temporaries':40}{compiled.temporary_bytes / gib:10.2f}",
        f"  {'peak':40}{compiled.peak_bytes / gib:10.2f}  (by formula {made.peak_bytes / gib:.2f})",
        *(["received per device and step, GB (number of collectives)"] if compiled.traffic else []),
        *(
            f"  {kind:40}{moved.received_bytes / 1e9:10.2f}  ({moved.runs})"
            for kind, moved in compiled.traffic.items()
        ),
    ]
    return "\n".join(lines)


def plan_to_dict(made: Plan) -> dict[str, Any]:
    """Return a plan for JSON, derived figures included."""
    # properties, which asdict leaves out
    names = ("peak_bytes", "fits", "step_seconds", "bare_step_seconds", "mfu")
    return dataclasses.asdict(made) | {name: getattr(made, name) for name in names}


def compiled_to_dict(compiled: CompiledStats) -> dict[str, Any]:
    """Return the compiler's figures for JSON, without the program's text."""
    found = dataclasses.asdict(dataclasses.replace(compiled, text=""))
    del found["text"]
    return found
