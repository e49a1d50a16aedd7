"""PyTorch to JAX, JAX to PyTorch, and the proof that they agree: import, export, check."""

import argparse
import sys
from typing import Any

from omfa_jax.cli.flags import SEED, Parser, number, to_path
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.folders import require_apart
from omfa_jax.parallel.flags import set_flags

DTYPES = ("fp32", "bf16", "fp16")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status (1: over the tolerance, 2: a fault to mend)."""
    try:
        options, options.overrides = _parser().parse_known_args(arguments)
        if options.overrides and getattr(options, "config", None) is None:
            raise OmfaError(f"unknown arguments: {' '.join(options.overrides)}")
        set_flags()
        return options.run(options)
    except OmfaError as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert_weights: interrupted", file=sys.stderr)
        return 130


def import_(options: argparse.Namespace) -> int:
    """Turn a diffusers folder or an SDXL file into an imported folder, where training starts."""
    from omfa_jax.weights.agreement import compare
    from omfa_jax.weights.conv_in import groups_of
    from omfa_jax.weights.imported import import_source
    from omfa_jax.weights.sources import open_source
    from omfa_jax.weights.text import prompt_table

    sources = {"SRC": options.source, "--vae": options.vae, "--config": options.config}
    require_apart(options.out, sources | {"--text-encoders": options.text_encoders})
    named = options.source_inputs.split(",") if options.source_inputs else None
    source = open_source(options.source, vae=options.vae, vae_scale=options.vae_scale, inputs=named)
    prompts, inputs = list(options.prompt), None
    if options.config is not None:
        from omfa_jax.cli.config import diffusion_settings, load_config

        config = load_config(options.config, options.overrides)
        settings = diffusion_settings(config, source.vae_config)
        if config.model.init_unet:
            ignore = options.ignore_scheduler or config.model.ignore_scheduler
            for note in compare(source.statements, settings, options.source, ignore=ignore):
                print(note)
        inputs = groups_of(settings)
        prompts = [*(task.prompt for task in settings.tasks), *prompts]
    encoders = options.text_encoders or options.source
    table = prompt_table(
        source,
        encoders,
        prompts,
        without_text=options.null_prompts,
        own_first=options.text_encoders is None,
    )
    report = import_source(source, options.out, inputs=inputs, dtype=options.dtype, prompts=table)
    for note in report.notes:
        print(note)
    counts = " and ".join(f"{count} {name}" for name, count in report.tensors.items())
    print(f"imported {options.source} -> {options.out} ({counts} tensors, {options.dtype})")
    return 0


def export(options: argparse.Namespace) -> int:
    """Turn a training checkpoint or an imported folder into a diffusers folder."""
    from omfa_jax.weights.folder import save_diffusers
    from omfa_jax.weights.imported import fields_of, is_imported, load_imported
    from omfa_jax.weights.stream import parse_size

    require_apart(options.out, {"CHECKPOINT": options.checkpoint})
    max_shard_bytes = parse_size(options.max_shard_size)

    def save(model: dict[str, Any]) -> str:
        save_diffusers(options.out, **model, dtype=options.dtype, max_shard_bytes=max_shard_bytes)
        return "step {step}, {weights} weights, ".format(**model["origin"]) if trained else ""

    trained = not is_imported(options.checkpoint)
    if trained:
        from omfa_jax.train.load import export_from_newest

        what = export_from_newest(options.checkpoint, options.weights, save)
    else:
        what = save(fields_of(load_imported(options.checkpoint)))
    print(f"exported {options.checkpoint} -> {options.out} ({what}{options.dtype})")
    return 0


def check(options: argparse.Namespace) -> int:
    """Compare our networks in float32 with diffusers' in float64 on the same random inputs."""
    from omfa_jax.weights.check import compare

    differences = compare(options.a, options.b, seed=options.seed)
    print(f"{'component':<14}{'max abs':>12}{'relative L2':>14}{'of PyTorch float32':>22}")
    for row in differences:
        figures = f"{row.max_abs:>12.3g}{row.relative_l2:>14.3g}{row.theirs:>22.3g}"
        print(f"{row.component:<14}{figures}")
    # written so that a NaN fails
    agree = all(row.relative_l2 <= options.tolerance for row in differences)
    print("agree" if agree else f"differ by more than --tolerance {options.tolerance:g}")
    return 0 if agree else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="convert_weights.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("import", help=import_.__doc__)
    command.add_argument(
        "source", type=to_path, metavar="SRC", help="a diffusers folder or SDXL's .safetensors file"
    )
    command.add_argument("--out", type=to_path, required=True, metavar="DIR")
    command.add_argument(
        "--config",
        type=to_path,
        metavar="FILE",
        help="map conv_in to this config's unet_inputs and embed its tasks' prompts"
        " (--config.a.b=value changes it)",
    )
    command.add_argument(
        "--source-inputs",
        metavar="NAMES",
        help="what conv_in's channels mean, in order, where its width does not say:"
        " noisy,mask,clean,pose",
    )
    command.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="of the imported arrays (fp32)"
    )
    command.add_argument(
        "--vae", type=to_path, metavar="SRC", help="take the VAE from this folder or file"
    )
    command.add_argument(
        "--vae-scale",
        type=number(0, 1000, above=True),
        metavar="X",
        help="the VAE's scaling factor, where its file does not say (0.13025)",
    )
    command.add_argument(
        "--ignore-scheduler",
        action="store_true",
        help="import although --config trains otherwise than SRC's scheduler says; training needs"
        " --config.model.ignore_scheduler=true then",
    )
    command.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="embed this prompt too (repeat; the empty prompt is always in)",
    )
    command.add_argument(
        "--text-encoders",
        type=to_path,
        metavar="DIR",
        help="diffusers folder with the text encoders (SRC)",
    )
    command.add_argument(
        "--null-prompts",
        action="store_true",
        help="no text at all: every prompt becomes the empty one",
    )
    command.set_defaults(run=import_)

    command = commands.add_parser("export", help=export.__doc__)
    command.add_argument(
        "checkpoint", type=to_path, metavar="CHECKPOINT", help="workdir, step or imported folder"
    )
    command.add_argument("--out", type=to_path, required=True, metavar="DIR")
    command.add_argument("--dtype", choices=DTYPES, default="fp32")
    command.add_argument(
        "--max-shard-size", default="10GB", metavar="SIZE", help="of one file (10GB)"
    )
    command.add_argument(
        "--weights",
        choices=("auto", "ema", "raw"),
        default="auto",
        help="auto: EMA if there is one",
    )
    command.set_defaults(run=export)

    command = commands.add_parser("check", help=check.__doc__)
    command.add_argument("a", type=to_path, metavar="A", help="run by JAX: a folder of either form")
    command.add_argument("b", type=to_path, metavar="B", help="run by PyTorch: a diffusers folder")
    command.add_argument(
        "--tolerance", type=number(0, 1, above=True), default=5e-6, help="relative L2 (5e-6)"
    )
    command.add_argument("--seed", type=SEED, default=0, help="of the random inputs (0)")
    command.set_defaults(run=check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
