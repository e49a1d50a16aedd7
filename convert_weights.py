"""PyTorch to JAX, JAX to PyTorch, and the proof that they agree: import, export, check."""

import argparse
import sys
from pathlib import Path

from omfa_jax.core.errors import OmfaError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status (1: over the tolerance, 2: a fault to mend)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except OmfaError as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 2


def import_(options: argparse.Namespace) -> int:
    """Turn a diffusers folder into an imported folder, from which training starts."""
    from omfa_jax.weights.imported import import_diffusers

    model = import_diffusers(
        options.source,
        options.out,
        unet_in_channels=options.in_channels,
        prompts=options.prompt,
    )
    for note in model.notes:
        print(note)
    print(f"imported {options.source} -> {options.out}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Turn a training checkpoint or an imported folder into a diffusers folder."""
    from omfa_jax.weights.folder import save_diffusers
    from omfa_jax.weights.imported import fields_of, is_imported, load_imported

    if is_imported(options.checkpoint):
        model = fields_of(load_imported(options.checkpoint))
    else:
        from omfa_jax.train.checkpoint import load_for_export

        model = load_for_export(options.checkpoint, options.weights)
    save_diffusers(options.out, **model, dtype=options.dtype)
    print(f"exported {options.checkpoint} -> {options.out} ({options.dtype})")
    return 0


def check(options: argparse.Namespace) -> int:
    """Compare our networks with diffusers' on the same random inputs."""
    from omfa_jax.weights.check import compare

    differences = compare(options.a, options.b, seed=options.seed)
    print(f"{'component':<14}{'max abs':>12}{'relative L2':>14}")
    for row in differences:
        print(f"{row.component:<14}{row.max_abs:>12.3g}{row.relative_l2:>14.3g}")
    # written so that a NaN fails
    agree = all(row.relative_l2 <= options.tolerance for row in differences)
    print("agree" if agree else f"differ by more than --tolerance {options.tolerance:g}")
    return 0 if agree else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convert_weights.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("import", help=import_.__doc__)
    command.add_argument("source", type=Path, metavar="SRC", help="a diffusers folder")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--in-channels", type=int, metavar="N", help="widen the UNet's conv_in with zeros to N"
    )
    command.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="embed this prompt with SRC's text encoders (repeat; the empty prompt is always in)",
    )
    command.set_defaults(run=import_)

    command = commands.add_parser("export", help=export.__doc__)
    command.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="workdir, step or imported folder"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp32")
    command.add_argument("--weights", choices=("ema", "raw"), default="ema")
    command.set_defaults(run=export)

    command = commands.add_parser("check", help=check.__doc__)
    command.add_argument("a", type=Path, metavar="A", help="run by JAX: a folder of either form")
    command.add_argument("b", type=Path, metavar="B", help="run by PyTorch: a diffusers folder")
    command.add_argument("--tolerance", type=float, default=5e-6, help="relative L2 (5e-6)")
    command.add_argument("--seed", type=int, default=0, help="of the random inputs (0)")
    command.set_defaults(run=check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
