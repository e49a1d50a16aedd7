"""`omfa plan`: memory, traffic and step time of a run on any topology, before renting it."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import BATCH_TYPE, EFFICIENCY_TYPE, float_between, parse_path
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.path_checks import require_writable_file

if TYPE_CHECKING:
    from omfa_jax.models import VAEConfig
    from omfa_jax.planning.frozen_vae import SamplingMemory
    from omfa_jax.planning.job import TrainingJob

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa plan`."""
    add_config_flags(parser, "config file, such as configs/vitonhd.py")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="accelerators: GPUs as chip-count (h100-8, gb200-72), TPUs by Google's accelerator"
        " type (v5litepod-256; v4-32 is 16 chips), xN for N slices (v6e-256x2); or a .json file"
        " that describes a machine (docs/plans.md)",
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--fast", action="store_true", help="use shapes and formulas only (default)")
    level.add_argument(
        "--compile",
        action="store_true",
        help="also compile the step with the topology's own compiler (minutes, several GB) and"
        " print its roofline: time, MFU bound and dearest source lines",
    )
    parser.add_argument(
        "--efficiency",
        type=EFFICIENCY_TYPE,
        default=0.5,
        metavar="X",
        help="assumed fraction of peak FLOP/s, 0 to 1",
    )
    parser.add_argument(
        "--sample-batch-size",
        type=BATCH_TYPE,
        default=1,
        metavar="N",
        help="pictures per device for the memory of `omfa sample`",
    )
    parser.add_argument(
        "--storage-rate",
        type=float_between(0, 1e6, above=True),
        default=1.0,
        metavar="GB/S",
        help="assumed rate at which a host reads and writes checkpoints, weights and records",
    )
    parser.add_argument(
        "--json", type=parse_path, metavar="FILE", help="also write the figures to FILE"
    )
    parser.add_argument(
        "--plot",
        type=parse_path,
        metavar="FILE",
        help="draw the compiled step's time and bytes by part of the network, as .png or .svg;"
        " requires --compile",
    )


def run(options: argparse.Namespace) -> None:
    """Print the plan; a run that does not fit is an OmfaError that says what to change."""
    if options.json:
        # before minutes of compiling
        require_writable_file(options.json, "--json")
    if options.plot:
        check_plot(options)
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
    from omfa_jax.cli import config_lib
    from omfa_jax.parallel.topology import parse_topology
    from omfa_jax.parallel.xla_flags import (
        format_memory_note,
        get_usable_fraction,
        set_platform_flags,
    )
    from omfa_jax.planning import aot
    from omfa_jax.planning.plan import find_fitting_overrides, find_lighter_remat, make_plan
    from omfa_jax.planning.report import (
        compiled_to_dict,
        format_compiled,
        format_plan,
        format_sampling,
        plan_to_dict,
    )
    from omfa_jax.planning.roofline import compute_roofline
    from omfa_jax.planning.roofline_machine import make_machine
    from omfa_jax.planning.roofline_plot import draw_parts
    from omfa_jax.planning.roofline_report import format_roofline, summarize

    topology = parse_topology(options.topology)
    if options.compile:
        # with the flags that training sets, or the compiled step would be another one
        set_platform_flags(topology.platform)
    usable = get_usable_fraction(topology.platform)
    if topology.platform != "tpu" and format_memory_note(os.environ):
        log.warning("%s", format_memory_note(os.environ))
    config = config_lib.load_config(options.config, options.overrides)
    job = make_job(config)
    rate = options.storage_rate * 1e9
    made = make_plan(job, topology, efficiency=options.efficiency, usable=usable, rate=rate)
    for note in made.notes:
        log.warning("%s", note)
    print(format_plan(job, made, options.efficiency))
    guidance = config.sample.guidance
    sampling = measure_sampling(
        job, topology.platform, options.sample_batch_size, guidance=guidance != 1
    )
    if sampling:
        print(format_sampling(sampling, made, guidance))
    faster = None
    # remat trades time for memory, so a run that fits may be able to do with less of it
    if made.fits:
        faster = find_lighter_remat(job, topology, efficiency=options.efficiency, usable=usable)
    if faster:
        print(
            f"config.train.remat={faster.remat} also fits:"
            f" {faster.peak_bytes / 2**30:.1f} GiB per device, {faster.step_seconds:.3f} s per step"
        )
    compiled = roofline = None
    if options.compile:
        compiled = aot.compile_step(job, aot.describe_devices(topology))
        print(format_compiled(made, compiled))
        roofline = summarize(compute_roofline(compiled.text, make_machine(topology)), made)
        print(format_roofline(roofline, made))
    if options.plot and roofline:
        with atomic_write(options.plot) as file:
            file.write_bytes(draw_parts(roofline, topology.name, options.plot.suffix[1:]))
        log.info("wrote %s", options.plot)
    # before the verdict: scripts want the figures of a run that does not fit as well
    if options.json:
        figures = {
            "plan": plan_to_dict(made),
            "sampling": sampling
            and dataclasses.asdict(sampling) | {"peak_bytes": sampling.peak_bytes},
            "compiled": compiled and compiled_to_dict(compiled),
            "roofline": roofline,
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


def check_plot(options: argparse.Namespace) -> None:
    """Raise OmfaError unless --plot can be drawn and written; before minutes of compiling."""
    if not options.compile:
        raise OmfaError("--plot draws the compiled step: add --compile, or drop --plot")
    if options.plot.suffix not in (".png", ".svg"):
        raise OmfaError(f"--plot: expected a name that ends in .png or .svg, got {options.plot}")
    require_modules("omfa plan --plot", "scaling", "matplotlib")
    require_writable_file(options.plot, "--plot")


def load_job(options: argparse.Namespace) -> "TrainingJob":
    """Return the run that the config named by the flags describes."""
    from omfa_jax.cli import config_lib

    return make_job(config_lib.load_config(options.config, options.overrides))


def make_job(config: Any) -> "TrainingJob":
    """Return the run that a config describes; reads neither weights nor data."""
    from omfa_jax.cli import config_lib
    from omfa_jax.models import get_vae_config
    from omfa_jax.planning.job import TrainingJob
    from omfa_jax.train.network import make_unet_config

    vae = get_vae_config(config.model.vae)
    if config.objective == "autoencoder" and config.autoencoder.decoder_of:
        vae = read_decoder_config(config.autoencoder.decoder_of, vae)
    diffusion = config_lib.make_diffusion_settings(config, vae)
    trains_vae = config.objective == "autoencoder"
    return TrainingJob(
        diffusion,
        make_unet_config(config.model.unet, diffusion),
        config_lib.make_train_settings(config),
        config_lib.make_mesh_settings(config),
        vae=vae,
        encodes=not trains_vae and reads_pictures(config),
        crop_px=config.autoencoder.crop_px if trains_vae else 0,
        decoder_only=bool(config.autoencoder.decoder_of),
        reads_weights=bool(config.model.init or config.checkpoint.start_from),
        reads_unet=bool(config.model.init_unet or config.checkpoint.start_from),
    )


def read_decoder_config(folder: str, preset: "VAEConfig") -> "VAEConfig":
    """Return the VAE of a model folder; the preset, with a warning, if it is not at hand."""
    from omfa_jax.core.paths import to_path
    from omfa_jax.weights.model_description import read_description

    try:
        return read_description(to_path(folder)).vae_config
    except OmfaError as error:
        log.warning("config.autoencoder.decoder_of is planned as config.model.vae: %s", error)
        return preset


def reads_pictures(config: Any) -> bool:
    """Return whether a run of this config encodes pictures in its step.

    A config without data counts as one on latents, and so does a mixture that is not on this
    machine: a line says so.
    """
    from omfa_jax.cli import config_lib

    if config.data.mixture:
        try:
            return not config_lib.uses_latents(config)
        except (OmfaError, OSError) as error:
            log.warning("planned for stored latents, for the mixture cannot be read: %s", error)
            return False
    return bool(config.data.records) and not config.data.latents


def measure_sampling(
    job: "TrainingJob", platform: str, pictures: int, *, guidance: bool
) -> "SamplingMemory | None":
    """Return the memory of `omfa sample` with the trained model; None if no UNet is trained."""
    from omfa_jax.parallel.attention_kernels import select_attention_kernel
    from omfa_jax.planning.frozen_vae import compute_sampling_memory

    if job.crop_px or job.vae is None:
        return None
    # as `--dtype auto` chooses on accelerators
    dtype = "bfloat16"
    kernel = select_attention_kernel("auto", platform, dtype)
    return compute_sampling_memory(
        job.diffusion,
        job.unet,
        job.vae,
        pictures,
        guidance=guidance,
        dtype=dtype,
        fused_attention=kernel != "xla",
    )
