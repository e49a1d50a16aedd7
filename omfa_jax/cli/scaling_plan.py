"""`omfa scaling plan`: write the configs, manifest and launch scripts of a scaling study."""

import argparse
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import EFFICIENCY_TYPE, float_between, int_between, parse_any_path_text
from omfa_jax.cli.scaling_configs import replace_size, write_configs
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import to_path

if TYPE_CHECKING:
    from omfa_jax.cli.config_lib import Config
    from omfa_jax.parallel.topology import Topology
    from omfa_jax.studies.study_manifest import ModelSize, StudyGrid

log = logging.getLogger(__name__)

HELP = "plan a study: write configs, a manifest and launch scripts; extends an existing study"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling plan`."""
    add_config_flags(parser, "base config of all runs")
    parser.add_argument(
        "--out", required=True, type=parse_any_path_text, metavar="DIR", help="study folder"
    )
    parser.add_argument(
        "--sizes", required=True, metavar="A,B,..", help="UNet presets, comma-separated"
    )
    parser.add_argument(
        "--samples",
        default="",
        metavar="N,..",
        help="training examples of each run, comma-separated",
    )
    parser.add_argument(
        "--budgets",
        default="",
        metavar="C,..",
        help="training FLOPs of each run, comma-separated",
    )
    parser.add_argument(
        "--learning-rates",
        default="",
        metavar="R,..",
        help="learning rates to try for each run, comma-separated (default: the config's)",
    )
    parser.add_argument(
        "--dataset-size",
        type=int_between(),
        default=0,
        metavar="N",
        help="number of training examples (default: counted in the config's data)",
    )
    parser.add_argument(
        "--min-steps",
        type=int_between(1),
        default=50,
        help="leave out runs with fewer steps",
    )
    parser.add_argument(
        "--max-epochs",
        type=float_between(0, 1e9, above=True),
        default=float("inf"),
        help="leave out runs with more epochs (default: no limit)",
    )
    hardware = parser.add_mutually_exclusive_group()
    hardware.add_argument(
        "--topology",
        default="",
        metavar="NAME",
        help="accelerators to plan for, as in `omfa plan`; estimates memory and hours",
    )
    hardware.add_argument(
        "--flops-per-second",
        type=float_between(0, 1e25),
        default=0.0,
        help="measured training FLOP/s of the machine, instead of --topology (default: unknown)",
    )
    parser.add_argument(
        "--efficiency",
        type=EFFICIENCY_TYPE,
        default=0.5,
        help="assumed fraction of peak FLOP/s, 0 to 1",
    )
    parser.add_argument(
        "--price",
        type=float_between(0, 1e9),
        metavar="X",
        help="price per hour of one chip of --topology, or of the machine of --flops-per-second",
    )


def run(options: argparse.Namespace) -> None:
    """Write the study and print its table."""
    if "jax" not in sys.modules:
        # nothing is computed, so do not reserve a GPU's memory
        os.environ["JAX_PLATFORMS"] = "cpu"
    from omfa_jax.cli import config_lib
    from omfa_jax.parallel.topology import parse_topology
    from omfa_jax.studies.study_launchers import write_launchers
    from omfa_jax.studies.study_manifest import (
        STUDY_FILE,
        Study,
        expand_grid,
        merge_runs,
        read_study,
        write_study,
    )
    from omfa_jax.studies.study_plan_table import format_plan

    config = config_lib.load_config(options.config, options.overrides)
    require_data_style(config)
    if config.model.init and config.model.init_unet:
        raise OmfaError(
            "config.model.init_unet=True would start every size from one UNet: add"
            " --config.model.init_unet=false"
        )
    topology = parse_topology(options.topology) if options.topology else None
    if options.price is not None and not (options.topology or options.flops_per_second):
        raise OmfaError(
            "--price needs an estimate of the hours: give --topology or --flops-per-second"
        )
    grid = make_grid(options, config)
    names = [name.strip() for name in options.sizes.split(",") if name.strip()]
    # the runs of a preset given twice would have the same names
    if not names or len(set(names)) < len(names):
        raise OmfaError(f"--sizes: expected different presets, got {options.sizes!r}")
    sizes = [measure_size(config, name, topology, options) for name in names]
    # --flops-per-second describes the machine as a whole, and so does --price then
    runs, left_out = expand_grid(
        sizes, grid, chips=topology.chips if topology else 1, price=options.price
    )
    if not runs:
        raise OmfaError("no runs are left: " + "; ".join(left_out))

    out = require_any_writable_dir(options.out, "--out").absolute()
    before = read_study(out) if (out / STUDY_FILE).exists() else None
    study = Study(
        base=str(options.config),
        machine=options.topology,
        price_per_chip_hour=options.price,
        runs=merge_runs(before.runs if before else (), runs, out),
        left_out=left_out,
    )
    # the manifest last: until then the folder is no study, or still the one that it was before
    write_configs(out, config, runs)
    files = write_launchers(out, study, topology)
    write_study(out, study)
    print(format_plan(study, topology))
    print(f"\n{out}: {STUDY_FILE}, configs/, {', '.join(files)}; `omfa scaling run {options.out}`")


def make_grid(options: argparse.Namespace, config: "Config") -> "StudyGrid":
    """Return the grid of the flags."""
    from omfa_jax.studies.study_manifest import StudyGrid

    rates = parse_numbers(options.learning_rates, "--learning-rates")
    samples = parse_numbers(options.samples, "--samples")
    # the flag first: a study may be planned on a machine that does not have the data
    unique = options.dataset_size or count_records(config)
    if unique < 1:
        raise OmfaError("the config's data has no examples; give --dataset-size")
    return StudyGrid(
        # parsed as floats, so that 1e6 may be written
        samples=tuple(round(n) for n in samples),
        budgets=parse_numbers(options.budgets, "--budgets"),
        learning_rates=rates or (float(config.optimizer.learning_rate),),
        batch_size=config.train.batch_size,
        dataset_size=unique,
        min_steps=options.min_steps,
        max_epochs=options.max_epochs,
    )


def parse_numbers(text: str, flag: str) -> tuple[float, ...]:
    """Parse a comma-separated list of positive numbers."""
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OmfaError(f"{flag}: expected numbers such as 1e4,2e4, got {text!r}") from None
    # refuses nan too, for which every comparison is false
    if not all(0 < number < math.inf for number in found):
        raise OmfaError(f"{flag}: expected positive numbers, got {text!r}")
    return found


def require_data_style(config: "Config") -> None:
    """Raise an OmfaError if data of the config has pose maps of another style than the config's.

    Data that is not on this machine is left to the runs.
    """
    from omfa_jax.core.paths import to_path
    from omfa_jax.data.pipeline.example_reader import require_pose_style
    from omfa_jax.data.pipeline.mixture import parse_mixture
    from omfa_jax.data.records import record_schema

    folders = [folder for folder, _ in parse_mixture(config.data.mixture)]
    for folder in (*folders, config.data.latents, config.data.records):
        if folder and (to_path(folder) / record_schema.MANIFEST).is_file():
            manifest = record_schema.read_manifest(folder)
            require_pose_style(folder, manifest, config.data.pose_style)


def count_records(config: "Config") -> int:
    """Return the number of training examples of the config's data."""
    from omfa_jax.cli import config_lib
    from omfa_jax.core.errors import make_unknown_name_error
    from omfa_jax.data.pipeline.mixture import parse_mixture
    from omfa_jax.data.records import record_schema

    folders = [folder for folder, _ in parse_mixture(config.data.mixture)]
    if not folders and not (config.data.latents or config.data.records):
        raise OmfaError("the number of training examples is unknown: give --dataset-size, or data")
    folders = folders or [config_lib.make_pipeline_settings(config).records]
    count = 0
    for folder in folders:
        splits = record_schema.read_manifest(folder)["splits"]
        if config.data.split not in splits:
            raise make_unknown_name_error(f"split of {folder}", config.data.split, splits)
        count += splits[config.data.split]
    return count


def measure_size(
    config: "Config", name: str, topology: "Topology | None", options: argparse.Namespace
) -> "ModelSize":
    """Return the cost of one preset, and whether it fits in the machine's memory."""
    from omfa_jax.cli.plan_command import make_job
    from omfa_jax.parallel.xla_flags import get_usable_fraction
    from omfa_jax.planning.plan import make_plan
    from omfa_jax.studies.study_manifest import ModelSize

    sized = replace_size(config, name)
    job = make_job(sized)
    params, flops = compute_size_cost(sized, job)
    if topology is None:
        # a measured rate says nothing about memory: the size counts as fitting
        rate = options.flops_per_second
        return ModelSize(name, params, flops, 1 / rate if rate else None)
    usable = get_usable_fraction(topology.platform)
    try:
        made = make_plan(job, topology, efficiency=options.efficiency, usable=usable)
    except OmfaError as error:
        raise OmfaError(f"{name}: {error}") from error
    for note in made.notes:
        log.warning("%s: %s", name, note)
    # per FLOP of the model, without remat's, because the runs' FLOPs are counted so
    return ModelSize(name, params, flops, made.step_seconds / made.model_flops, made.fits)


def compute_size_cost(config: "Config", job: Any) -> tuple[int, float]:
    """Return (parameters, training FLOPs of one example), counted as in the run's log.

    If config.model.init is not on this machine, its prompts are assumed to have SDXL's 77 tokens.
    """
    from omfa_jax.cli import config_lib
    from omfa_jax.planning.flops import count_unet_flops
    from omfa_jax.planning.run_cost import compute_unet_cost
    from omfa_jax.train.initial_weights import load_initial_model
    from omfa_jax.weights.text_encoders import TEXT_TOKENS

    if not config.model.init or to_path(config.model.init).is_dir():
        model = load_initial_model(config_lib.make_weights_source(config), None, abstract=True)
        # encoding would be counted apart from the UNet's FLOPs, and laws refer to those
        cost = compute_unet_cost(model, config.train.batch_size, encodes=False)
        return cost.params, cost.flops_per_example
    height, width, _ = job.diffusion.canvas.shape
    total = count_unet_flops(job.unet, height, width, text_tokens=TEXT_TOKENS).total
    return total.params, total.step
