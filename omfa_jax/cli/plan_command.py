"""`omfa plan`: memory, traffic and step time of a run on any topology, before renting it."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import EFFICIENCY_TYPE, parse_path
from omfa_jax.core.errors import OmfaError

if TYPE_CHECKING:
    from omfa_jax.planning.aot import CompiledStats
    from omfa_jax.planning.plan import Plan, TrainingJob

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa plan`."""
    add_config_flags(parser, "config file, such as configs/vitonhd.py")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="accelerators: GPUs as chip-count (h100-8, gb200-72), TPUs by Google's accelerator"
        " type (v5litepod-256; v4-32 is 16 chips), xN for N slices (v6e-256x2)",
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--fast", action="store_true", help="use shapes and formulas only (default)")
    level.add_argument(
        "--compile",
        action="store_true",
        help="also compile the step with the topology's own compiler (minutes, several GB)",
    )
    parser.add_argument(
        "--efficiency",
        type=EFFICIENCY_TYPE,
        default=0.5,
        metavar="X",
        help="assumed fraction of peak FLOP/s, 0 to 1",
    )
    parser.add_argument(
        "--json", type=parse_path, metavar="FILE", help="also write the figures to FILE"
    )


def run(options: argparse.Namespace) -> None:
    """Print the plan; a run that does not fit is an OmfaError that says what to change."""
    if "jax" not in sys.modules:
        # nothing runs on a device, and starting one would take its memory from other processes
        os.environ["JAX_PLATFORMS"] = "cpu"
    # libtpu refuses to load without a TPU attached unless it is told what to pretend
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)
    from omfa_jax.parallel.topology import parse_topology
    from omfa_jax.parallel.xla_flags import (
        format_memory_note,
        get_usable_fraction,
        set_platform_flags,
    )
    from omfa_jax.planning import aot
    from omfa_jax.planning.plan import find_fitting_overrides, find_lighter_remat, make_plan

    topology = parse_topology(options.topology)
    if options.compile:
        # with the flags that training sets, or the compiled step would be another one
        set_platform_flags(topology.platform)
    usable = get_usable_fraction(topology.platform)
    if topology.platform != "tpu" and format_memory_note(os.environ):
        log.warning("%s", format_memory_note(os.environ))
    job = load_job(options)
    made = make_plan(job, topology, efficiency=options.efficiency, usable=usable)
    for note in made.notes:
        log.warning("%s", note)
    print(format_plan(job, made, options.efficiency))
    faster = None
    # remat trades time for memory, so a run that fits may be able to do with less of it
    if made.fits:
        faster = find_lighter_remat(job, topology, efficiency=options.efficiency, usable=usable)
    if faster:
        print(
            f"config.train.remat={faster.remat} also fits:"
            f" {faster.peak_bytes / 2**30:.1f} GiB per device, {faster.step_seconds:.3f} s per step"
        )
    compiled = None
    if options.compile:
        compiled = aot.compile_step(job, aot.describe_devices(topology))
        print(format_compiled(made, compiled))
    # before the verdict: scripts want the figures of a run that does not fit as well
    if options.json:
        figures = {
            "plan": plan_to_dict(made),
            "compiled": compiled and dataclasses.asdict(compiled),
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    # the compiler's figure decides where there is one
    peak = compiled.peak_bytes if compiled else made.peak_bytes
    if peak > made.usable_bytes:
        # by formula even after --compile: compiling each candidate would take minutes
        found = find_fitting_overrides(job, topology, usable=usable)
        change = f"try {found}" if found else "use more chips, a smaller batch or a smaller preset"
        raise OmfaError(
            f"this run does not fit on {topology.name}: it needs {peak / 2**30:.1f} of"
            f" {made.usable_bytes / 2**30:.1f} GiB per device; {change}"
        )


def load_job(options: argparse.Namespace) -> "TrainingJob":
    """Return the run that the config named by the flags describes."""
    from omfa_jax.cli import config_lib

    return make_job(config_lib.load_config(options.config, options.overrides))


def make_job(config: Any) -> "TrainingJob":
    """Return the run that a config describes; reads neither weights nor data."""
    from omfa_jax.cli import config_lib
    from omfa_jax.models import get_vae_config
    from omfa_jax.planning.plan import TrainingJob
    from omfa_jax.train.network import make_unet_config

    diffusion = config_lib.make_diffusion_settings(config, get_vae_config(config.model.vae))
    return TrainingJob(
        diffusion,
        make_unet_config(config.model.unet, diffusion),
        config_lib.make_train_settings(config),
        config_lib.make_mesh_settings(config),
    )


def format_plan(job: "TrainingJob", made: "Plan", efficiency: float) -> str:
    """Return the plan as text."""
    gib = 2**30
    height, width, _ = job.diffusion.canvas.shape
    sizes = [f"{axis} {size}" for axis, size in made.mesh.items() if size > 1]
    mesh = " x ".join(sizes) or "1 device"
    cut = "".join(f"; {axis} shards {share:.1%} of weights" for axis, share in made.cut.items())
    lines = [
        f"{made.topology.name}: {made.topology.describe()}",
        f"{made.params:,} parameters, canvas {height}x{width}, batch {job.train.batch_size} in"
        f" {job.train.grad_accum_steps} microbatch(es), {job.train.compute_dtype}, remat"
        f" {job.train.remat}, attention {made.attention}",
        f"mesh {mesh}{cut}",
        "from stored latents: encoding in the step would add the VAE",
        "",
        "memory per device, GiB",
        *(f"  {name:40}{size / gib:10.2f}" for name, size in made.memory.items() if size),
        f"  {'peak':40}{made.peak_bytes / gib:10.2f}  of"
        f" {made.usable_bytes / gib:.1f} ({made.usable:.0%} of the device's):"
        f" {'fits' if made.fits else 'DOES NOT FIT'}",
        "",
        "received per device and step, GB",
        *(f"  {name:40}{size / 1e9:10.2f}" for name, size in made.traffic.items()),
        "",
        f"FLOPs per step                            {made.model_flops:10.3e},"
        f" {made.executed_flops:.3e} with remat",
        f"compute time, assuming {efficiency:4.0%} of peak       {made.compute_seconds:10.3f} s",
        f"communication time                        {made.traffic_seconds:10.3f} s",
        f"step time, full / no overlap              {made.step_seconds:10.3f} s /"
        f" {made.bare_step_seconds:.3f} s",
        f"MFU, full overlap                         {made.mfu:10.1%}",
        f"{job.train.steps:,} steps                            "
        f"{job.train.steps * made.step_seconds / 3600:10.1f} h",
    ]
    return "\n".join(lines)


def format_compiled(made: "Plan", compiled: "CompiledStats") -> str:
    """Return the compiler's figures next to the plan's, as text."""
    gib = 2**30
    lines = [
        "",
        f"compiled in {compiled.seconds:.0f} s; memory per device, GiB",
        f"  {'state and batch':40}{compiled.argument_bytes / gib:10.2f}",
        f"  {'temporaries':40}{compiled.temporary_bytes / gib:10.2f}",
        f"  {'peak':40}{compiled.peak_bytes / gib:10.2f}  (by formula {made.peak_bytes / gib:.2f})",
        "received per device and step, GB (number of collectives)",
        *(
            f"  {kind:40}{moved.received_bytes / 1e9:10.2f}  ({moved.runs})"
            for kind, moved in compiled.traffic.items()
        ),
    ]
    return "\n".join(lines)


def plan_to_dict(made: "Plan") -> dict[str, Any]:
    """Return a plan for JSON, derived figures included."""
    # properties, which asdict leaves out
    names = ("peak_bytes", "fits", "step_seconds", "bare_step_seconds", "mfu")
    return dataclasses.asdict(made) | {name: getattr(made, name) for name in names}
