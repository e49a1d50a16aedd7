"""`omfa plan`: what a run will need on a machine that is not here, before it is paid for."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.flags import EFFICIENCY, path_text, to_path
from omfa_jax.core.errors import OmfaError

if TYPE_CHECKING:
    from omfa_jax.scaling.ahead import Compiled
    from omfa_jax.scaling.plan import Job, Plan

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa plan`."""
    parser.add_argument(
        "--config", required=True, type=path_text, metavar="FILE", help="a file of configs/"
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="chip-count: a800-4, h100-8, h200-256, v4-16, v5e-256, v5e-256x2 (two slices)",
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--fast", action="store_true", help="shapes and formulas (the default)")
    level.add_argument(
        "--compile",
        action="store_true",
        help="also compile the step by the machine's own compiler: minutes, gigabytes",
    )
    parser.add_argument(
        "--efficiency",
        type=EFFICIENCY,
        default=0.5,
        metavar="X",
        help="of the chip's peak that computing reaches (0.5)",
    )
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write the figures here too")


def run(options: argparse.Namespace) -> None:
    """Print the plan; a run that does not fit is an OmfaError that says what to change."""
    if "jax" not in sys.modules:
        # nothing is run: the compilers for other devices are loaded, the devices are not
        os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)
    from omfa_jax.parallel.flags import memory_note, set_flags_of, usable_part
    from omfa_jax.parallel.pods import pod
    from omfa_jax.scaling import ahead
    from omfa_jax.scaling.plan import advice, lighter, plan

    machine = pod(options.topology)
    if options.compile:
        # the step that training would run, with its flags
        set_flags_of(machine.platform)
    usable = usable_part(machine.platform)
    if machine.platform == "cuda" and memory_note(os.environ):
        log.warning("%s", memory_note(os.environ))
    job = job_of(options)
    made = plan(job, machine, efficiency=options.efficiency, usable=usable)
    for note in made.notes:
        log.warning("%s", note)
    print(table(job, made, options.efficiency))
    faster = None
    if made.fits:
        faster = lighter(job, machine, efficiency=options.efficiency, usable=usable)
    if faster:
        print(
            f"config.train.remat={faster.remat} fits too: {faster.peak_bytes / 2**30:.1f} GiB a"
            f" chip, a step {faster.step_seconds:.3f} s"
        )
    compiled = None
    if options.compile:
        compiled = ahead.compile_for(job, ahead.devices_of(machine))
        print(compiled_table(made, compiled))
    if options.json:
        figures = {"plan": figures_of(made), "compiled": compiled and dataclasses.asdict(compiled)}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    peak = compiled.peak_bytes if compiled else made.peak_bytes
    if peak > made.usable_bytes:
        found = advice(job, machine, usable=usable)
        change = f"try {found}" if found else "take more chips, a smaller batch or preset"
        raise OmfaError(
            f"{options.topology} does not hold this run ({peak / 2**30:.1f} GiB a chip): {change}"
        )


def job_of(options: argparse.Namespace) -> "Job":
    """Return the run that the flags' config describes."""
    from omfa_jax.cli import config as config_lib

    return job_of_config(config_lib.load_config(options.config, options.overrides))


def job_of_config(config: Any) -> "Job":
    """Return the run that a config describes; weights and data are not looked at."""
    from omfa_jax.cli import config as config_lib
    from omfa_jax.models import vae
    from omfa_jax.scaling.plan import Job
    from omfa_jax.train.network import make_unet_config

    diffusion = config_lib.diffusion_settings(config, vae(config.model.vae))
    return Job(
        diffusion,
        make_unet_config(config.model.unet, diffusion),
        config_lib.train_settings(config),
        config_lib.mesh_settings(config),
    )


def table(job: "Job", made: "Plan", efficiency: float) -> str:
    """Return the plan in words and columns."""
    gib = 2**30
    height, width, _ = job.diffusion.canvas.shape
    mesh = " x ".join(f"{axis} {size}" for axis, size in made.mesh.items() if size > 1) or "1 chip"
    cut = "".join(f"; {axis} cuts {share:.1%} of the weights" for axis, share in made.cut.items())
    lines = [
        f"{made.pod.name}: {made.params:,} parameters, canvas {height}x{width}, batch"
        f" {job.train.batch_size} in {job.train.grad_accum_steps} microbatch(es),"
        f" {job.train.compute_dtype}, remat {job.train.remat}, attention {made.attention}",
        f"mesh {mesh}{cut}",
        "stored latents: a VAE that encodes in the step comes on top",
        "",
        "bytes on a chip, GiB",
        *(f"  {name:40}{size / gib:10.2f}" for name, size in made.memory.items() if size),
        f"  {'together':40}{made.peak_bytes / gib:10.2f}  of"
        f" {made.usable_bytes / gib:.1f} ({made.usable:.0%} of the chip's):"
        f" {'fits' if made.fits else 'DOES NOT FIT'}",
        "",
        "received by a chip in a step, GB",
        *(f"  {name:40}{size / 1e9:10.2f}" for name, size in made.traffic.items()),
        "",
        f"FLOPs of a step                           {made.model_flops:10.3e},"
        f" {made.executed_flops:.3e} with what is computed twice",
        f"computing, at {efficiency:.0%} of peak (a supposition) {made.compute_seconds:10.3f} s",
        f"traffic                                   {made.traffic_seconds:10.3f} s",
        f"step, traffic hidden / not hidden         {made.step_seconds:10.3f} s /"
        f" {made.bare_step_seconds:.3f} s",
        f"MFU, traffic hidden                       {made.mfu:10.1%}",
        f"{job.train.steps:,} steps                            "
        f"{job.train.steps * made.step_seconds / 3600:10.1f} h",
    ]
    return "\n".join(lines)


def compiled_table(made: "Plan", compiled: "Compiled") -> str:
    """Return the compiler's figures beside the plan's."""
    gib = 2**30
    lines = [
        "",
        f"compiled in {compiled.seconds:.0f} s; on a chip, GiB",
        f"  {'state and batch':40}{compiled.argument_bytes / gib:10.2f}",
        f"  {'temporaries':40}{compiled.temporary_bytes / gib:10.2f}",
        f"  {'peak':40}{compiled.peak_bytes / gib:10.2f}  (by formula {made.peak_bytes / gib:.2f})",
        "received by a chip in a step, GB (times it runs)",
        *(
            f"  {kind:40}{moved.received_bytes / 1e9:10.2f}  ({moved.runs})"
            for kind, moved in compiled.traffic.items()
        ),
    ]
    return "\n".join(lines)


def figures_of(made: "Plan") -> dict[str, Any]:
    """Return a plan for JSON, what follows from it included."""
    names = ("peak_bytes", "fits", "step_seconds", "bare_step_seconds", "mfu")
    return dataclasses.asdict(made) | {name: getattr(made, name) for name in names}
