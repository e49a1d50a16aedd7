"""Import PyTorch weights to JAX, export JAX weights to PyTorch, and check that they agree."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from omfa_jax.cli.config_flag import (
    PRINT_FLAG,
    add_config_flags,
    print_config,
    require_config_only,
)
from omfa_jax.cli.flags import (
    SEED_TYPE,
    Parser,
    float_between,
    parse_any_path,
    parse_any_path_text,
)
from omfa_jax.cli.logs import set_up_logs
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import RESTART, classify_error
from omfa_jax.parallel.xla_flags import set_xla_flags

DTYPES = ("fp32", "bf16", "fp16")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    1: outside the tolerance; 2: an input error; 75: a fault that a restart may mend.
    """
    set_up_logs()
    try:
        parser = _parser()
        if PRINT_FLAG in (sys.argv if arguments is None else arguments):
            require_config_only(parser)
        options, options.overrides = parser.parse_known_args(arguments)
        if options.overrides and getattr(options, "config", None) is None:
            raise OmfaError(f"unknown arguments: {' '.join(options.overrides)}")
        if getattr(options, "print_config", False):
            print_config(options)
            return 0
        set_xla_flags()
        return options.run(options)
    except (OmfaError, OSError) as error:
        row = classify_error(error)
        advice = f" ({row.description}: restarting may help)" if row.status == RESTART else ""
        print(f"convert_weights: {error}{advice}", file=sys.stderr)
        return row.status
    except KeyboardInterrupt:
        print("convert_weights: interrupted", file=sys.stderr)
        return 130


def import_weights(options: argparse.Namespace) -> int:
    """Convert a diffusers folder or an SDXL file to an imported folder, to train from it."""
    from omfa_jax.weights.conv_in import get_input_groups
    from omfa_jax.weights.imported_folder import import_source
    from omfa_jax.weights.lora import parse_lora
    from omfa_jax.weights.scheduler_agreement import check_agreement
    from omfa_jax.weights.text_encoders import make_prompt_table
    from omfa_jax.weights.torch_sources import open_source, resolve_source

    loras = [parse_lora(text) for text in options.lora]
    sources = {"SRC": options.source, "--vae": options.vae, "--config": options.config}
    sources |= {"--text-encoders": options.text_encoders, "--tokenizer": options.tokenizer}
    for lora in loras:
        require_disjoint(options.out, sources | {"--lora": lora.path})
    require_disjoint(options.out, sources)
    named = options.source_inputs.split(",") if options.source_inputs else None
    source = open_source(
        options.source,
        vae=options.vae,
        vae_scale=options.vae_scale,
        inputs=named,
        loras=loras,
        allow_fp8=options.allow_fp8,
    )
    prompts, inputs = list(options.prompt), None
    if options.config is not None:
        from omfa_jax.cli.config_lib import load_config, make_diffusion_settings

        config = load_config(options.config, options.overrides)
        settings = make_diffusion_settings(config, source.vae_config)
        if config.model.init_unet:
            ignore = options.ignore_scheduler or config.model.ignore_scheduler
            for note in check_agreement(source.statements, settings, options.source, ignore=ignore):
                print(note)
        inputs = get_input_groups(settings)
        prompts = [*(task.prompt for task in settings.tasks), *prompts]
    encoders = options.text_encoders or resolve_source(options.source)
    table = make_prompt_table(
        source,
        encoders,
        prompts,
        without_text=options.null_prompts,
        own_first=options.text_encoders is None,
        tokenizer=options.tokenizer,
        allow_fp8=options.allow_fp8,
    )
    report = import_source(source, options.out, inputs=inputs, dtype=options.dtype, prompts=table)
    for note in report.notes:
        print(note)
    counts = " and ".join(f"{count} {name}" for name, count in report.tensors.items())
    print(f"imported {options.source} -> {options.out} ({counts} tensors, {options.dtype})")
    return 0


def export_weights(options: argparse.Namespace) -> int:
    """Convert a training checkpoint or an imported folder to a diffusers folder."""
    from omfa_jax.weights.diffusers_folder import save_diffusers
    from omfa_jax.weights.imported_folder import get_export_fields, is_imported, load_imported
    from omfa_jax.weights.safetensors_stream import parse_size

    require_disjoint(options.out, {"CHECKPOINT": options.checkpoint})
    max_shard_bytes = parse_size(options.max_shard_size)

    def save(model: dict[str, Any]) -> str:
        save_diffusers(options.out, **model, dtype=options.dtype, max_shard_bytes=max_shard_bytes)
        return "step {step}, {weights} weights, ".format(**model["origin"]) if trained else ""

    trained = not is_imported(options.checkpoint)
    if trained:
        from omfa_jax.train.checkpoints.checkpoint_weights import export_newest

        what = export_newest(options.checkpoint, options.weights, save)
    else:
        what = save(get_export_fields(load_imported(options.checkpoint)))
    print(f"exported {options.checkpoint} -> {options.out} ({what}{options.dtype})")
    return 0


def check_weights(options: argparse.Namespace) -> int:
    """Compare JAX in float32 with diffusers in float64 on the same random inputs."""
    from omfa_jax.weights.torch_comparison import compare_with_torch

    differences = compare_with_torch(options.a, options.b, seed=options.seed)
    print(f"{'component':<14}{'max abs':>12}{'relative L2':>14}{'PyTorch float32':>22}")
    for row in differences:
        figures = f"{row.max_abs:>12.3g}{row.relative_l2:>14.3g}{row.torch_float32:>22.3g}"
        print(f"{row.component:<14}{figures}")
    # <= and not >, so that NaN counts as a difference
    agree = all(row.relative_l2 <= options.tolerance for row in differences)
    print("agree" if agree else f"differ by more than --tolerance {options.tolerance:g}")
    return 0 if agree else 1


def _add_command(commands: Any, name: str, function: Callable[..., int]) -> Parser:
    text = (function.__doc__ or "").splitlines()[0]
    return commands.add_parser(name, help=text, description=text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="convert_weights.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _add_command(commands, "import", import_weights)
    command.add_argument(
        "source",
        type=parse_any_path,
        metavar="SRC",
        help="diffusers folder, SDXL .safetensors file, or .safetensors.index.json of its shards",
    )
    command.add_argument(
        "--out", type=parse_any_path, required=True, metavar="DIR", help="imported folder to write"
    )
    add_config_flags(
        command,
        "map conv_in to this config's unet_inputs and embed its tasks' prompts; override its"
        " values with --config.a.b=value (default: keep the source's channels and prompts)",
        required=False,
    )
    command.add_argument(
        "--source-inputs",
        metavar="NAMES",
        help="meaning of conv_in's channels in order, such as noisy,mask,clean,pose (default: from"
        " omfa.json or the width)",
    )
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp32",
        help="dtype of the arrays on disk",
    )
    command.add_argument(
        "--vae",
        type=parse_any_path,
        metavar="SRC",
        help="folder or file to take the VAE from (default: SRC)",
    )
    command.add_argument(
        "--vae-scale",
        type=float_between(0, 1000, above=True),
        metavar="X",
        help="scaling factor of the VAE (default: the one in its files, else 0.13025)",
    )
    command.add_argument(
        "--ignore-scheduler",
        action="store_true",
        help="import even if --config contradicts SRC's scheduler; training then needs"
        " --config.model.ignore_scheduler=true",
    )
    command.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="additional prompt to embed; may be repeated (the empty prompt is always included)",
    )
    command.add_argument(
        "--text-encoders",
        type=parse_any_path,
        metavar="SRC",
        help="diffusers folder or SDXL file with the text encoders (default: SRC)",
    )
    command.add_argument(
        "--tokenizer",
        type=parse_any_path,
        metavar="DIR",
        help="folder with CLIP's vocab.json and merges.txt, for text encoders in a single file",
    )
    command.add_argument(
        "--lora",
        action="append",
        type=parse_any_path_text,
        default=[],
        metavar="FILE[:SCALE]",
        help="LoRA to merge into the UNet, with a factor (default: 1); may be repeated",
    )
    command.add_argument(
        "--allow-fp8",
        action="store_true",
        help="accept weights in 8-bit floating point, upcast to float32",
    )
    command.add_argument(
        "--null-prompts",
        action="store_true",
        help="train without text: embed every prompt as the empty one",
    )
    command.set_defaults(run=import_weights)

    command = _add_command(commands, "export", export_weights)
    command.add_argument(
        "checkpoint",
        type=parse_any_path,
        metavar="CHECKPOINT",
        help="workdir, checkpoint step or imported folder",
    )
    command.add_argument(
        "--out", type=parse_any_path, required=True, metavar="DIR", help="diffusers folder to write"
    )
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp32",
        help="dtype of the tensors on disk",
    )
    command.add_argument(
        "--max-shard-size",
        default="10GB",
        metavar="SIZE",
        help="maximum size of one file, in KB, MB or GB",
    )
    command.add_argument(
        "--weights",
        choices=("auto", "ema", "raw"),
        default="auto",
        help="weights to export; auto is EMA if the checkpoint has it",
    )
    command.set_defaults(run=export_weights)

    command = _add_command(commands, "check", check_weights)
    command.add_argument(
        "a", type=parse_any_path, metavar="A", help="model run by JAX: imported or diffusers folder"
    )
    command.add_argument(
        "b", type=parse_any_path, metavar="B", help="model run by PyTorch: diffusers folder"
    )
    command.add_argument(
        "--tolerance",
        type=float_between(0, 1, above=True),
        default=5e-6,
        help="largest relative L2 error that counts as agreement",
    )
    command.add_argument("--seed", type=SEED_TYPE, default=0, help="seed of the random inputs")
    command.set_defaults(run=check_weights)
    return parser


if __name__ == "__main__":
    sys.exit(main())
