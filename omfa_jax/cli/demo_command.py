"""`omfa demo`: run the complete pipeline on a laptop; write scores.json and report.html."""

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from omfa_jax import __version__
from omfa_jax.cli.flags import WORKERS_TYPE, int_between, parse_path_text
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, format_install_hint
from omfa_jax.core.path_checks import require_writable_dir

log = logging.getLogger(__name__)

CONFIG = Path(__file__).parents[2] / "configs" / "demo.py"
SEED = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa demo`."""
    add = parser.add_argument
    add("--workdir", default="runs/demo", type=parse_path_text, metavar="DIR", help="output folder")
    add(
        "--train",
        type=int_between(8),
        default=256,
        metavar="N",
        help="synthetic people to train on",
    )
    add(
        "--test",
        # each example is also sampled with another one's condition, so one alone is not enough
        type=int_between(2),
        default=24,
        metavar="N",
        help="synthetic people to evaluate on",
    )
    add("--steps", type=int_between(1), default=150, metavar="N", help="training steps")
    add(
        "--sampling-steps",
        type=int_between(1, 1000),
        default=20,
        metavar="N",
        help="denoising steps",
    )
    add(
        "--processes",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        metavar="N",
        help="worker processes for data generation",
    )


def run(options: argparse.Namespace) -> None:
    """Run all stages, and log the name and duration of each."""
    from omfa_jax.model_loading import TINY_FOLDER

    workdir = require_writable_dir(options.workdir, "--workdir").absolute()
    if not CONFIG.is_file():
        raise OmfaError(f"the demo's config is not at {CONFIG}; run it from a checkout (make demo)")
    stages = StageRunner()
    raw, records = workdir / "world", workdir / "records"
    imported, latents = workdir / "imported", workdir / "latents"
    trained, exported = workdir / "train", workdir / "exported"

    config = make_demo_config(records, latents, imported, options)

    stages.run("make a synthetic data set", lambda: synthesize(raw, options))
    stages.run("render pose maps", lambda: render_poses(raw, config, options))
    stages.run("build records", lambda: build(raw, records))
    stages.run("import the PyTorch weights", lambda: import_weights(TINY_FOLDER, imported))
    stages.run("encode latents", lambda: encode(config, records, imported, latents))
    stages.run("continue training", lambda: train(config, trained))

    from omfa_jax.evals.demo_scores import score_demo

    how = {"examples": options.test, "sampling_steps": options.sampling_steps}
    sheets, scores = stages.run(
        "sample and score", lambda: score_demo(trained, raw, records, **how)
    )
    scores |= stages.run(
        "export and compare with PyTorch", lambda: export_weights(trained, exported)
    )

    from omfa_jax.evals.report.demo_page import write_report

    scores["seconds"] = stages.seconds
    scores["machine"] = {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "omfa_jax": __version__,
    }
    with atomic_write(workdir / "scores.json") as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    write_report(workdir, trained, sheets, scores)
    # a warning and not an error: a demo with fewer steps or people may well miss the bars
    missed = [name for name, held in scores["bars"].items() if not held]
    if missed:
        log.warning("below the bar: %s (see report.html)", "; ".join(missed))
    total = sum(stages.seconds.values())
    log.info("demo: %.0f s on %s cores; open %s", total, os.cpu_count(), workdir / "report.html")


class StageRunner:
    """Runs the stages in order and records their durations."""

    COUNT = 8

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable):
        """Return the result of `work`; log a line before and after it."""
        log.info("[%d/%d] %s ...", len(self.seconds) + 1, self.COUNT, name)
        start = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - start, 1)
        log.info("[%d/%d] %s: %.1f s", len(self.seconds), self.COUNT, name, self.seconds[name])
        return result


def run_command(name: str, *flags: str) -> None:
    """Run another omfa command in this process; its errors propagate."""
    import importlib

    from omfa_jax.cli.main import COMMANDS, make_parser

    options, rest = make_parser(name).parse_known_args(list(flags))
    options.overrides = rest
    importlib.import_module(COMMANDS[name][0]).run(options)


def synthesize(raw: Path, options: argparse.Namespace) -> None:
    """Write people, garments, photos and ground truth; existing people are kept."""
    run_command(
        "data", "synthesize", f"--out={raw}", f"--train={options.train}", "--val=8",
        f"--test={options.test}", f"--seed={SEED}", f"--processes={options.processes}",
    )  # fmt: skip


def render_poses(raw: Path, config, options: argparse.Namespace) -> None:
    """Render every SMPL-X parameter file to a pose map."""
    style = f"--style={config.data.pose_style}"
    run_command("data", "poses", f"--raw={raw}", style, f"--processes={options.processes}")


def build(raw: Path, records: Path) -> None:
    """Build records from the raw folder."""
    # built again in every run: a larger --train or --test adds people to the raw folder
    run_command("data", "build", f"--raw={raw}", f"--out={records}", "--overwrite")


def import_weights(source: Path, out: Path) -> None:
    """Import PyTorch weights, like `convert_weights.py import`."""
    from omfa_jax.weights.imported_folder import import_source
    from omfa_jax.weights.torch_sources import open_source

    report = import_source(open_source(source), out)
    for note in report.notes:
        log.info(note)


def make_demo_config(records: Path, latents: Path, imported: Path, options: argparse.Namespace):
    """Return configs/demo.py with the folders of this run."""
    from omfa_jax.cli.config_lib import load_config

    return load_config(
        CONFIG,
        [
            f"--config.data.records={records}",
            f"--config.data.latents={latents}",
            f"--config.model.init={imported}",
            f"--config.train.steps={options.steps}",
        ],
    )


def encode(config, records: Path, model: Path, latents: Path) -> None:
    """Encode the records as VAE latents."""
    from omfa_jax.cli.config_lib import make_weights_source
    from omfa_jax.sampling.encode_records import encode_records

    diffusion_for = make_weights_source(config).diffusion_for
    encode_records(
        diffusion_for, str(records), str(model), str(latents), batch_size=32, overwrite=True
    )


def train(config, workdir: Path) -> None:
    """Train, starting from the imported weights."""
    from omfa_jax.cli.train import train_diffusion

    train_diffusion(config, require_writable_dir(workdir, "--workdir"))


def export_weights(trained: Path, out: Path) -> dict:
    """Export the trained weights and, if PyTorch is installed, compare outputs with it."""
    import importlib.util

    from omfa_jax.train.checkpoints.checkpoint_weights import export_newest
    from omfa_jax.weights.diffusers_folder import save_diffusers

    export_newest(trained, "auto", lambda model: save_diffusers(out, **model))
    if importlib.util.find_spec("diffusers") is None:
        log.warning(
            "PyTorch or diffusers is not installed: the export is not compared (%s)",
            format_install_hint("torch"),
        )
        return {"export": {"compared": False}}
    from omfa_jax.weights.torch_comparison import compare_with_torch

    differences = compare_with_torch(out, out)
    return {
        "export": {
            "compared": True,
            **{row.component: {"relative_l2": row.relative_l2} for row in differences},
        }
    }
