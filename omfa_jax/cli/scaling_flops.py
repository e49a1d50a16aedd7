"""`omfa scaling flops`: count parameters and FLOPs of a config or of presets, by component."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import int_between
from omfa_jax.core.errors import OmfaError

if TYPE_CHECKING:
    from omfa_jax.diffusion.settings import DiffusionSettings
    from omfa_jax.models import UNetConfig, VAEConfig
    from omfa_jax.planning.flop_counter import FlopCounter

HELP = "count parameters and FLOPs of a config or of presets, by component"

BASE = Path(__file__).parents[2] / "configs" / "base.py"
WIDTHS = (26, 15, 13, 13, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling flops`."""
    add_config_flags(
        parser,
        "config file, for its UNet, canvas and VAE (default: configs/base.py)",
        required=False,
    )
    parser.add_argument(
        "--preset",
        action="append",
        default=[],
        metavar="NAME",
        help="UNet preset instead of the config's; repeat for several, or all for every preset",
    )
    parser.add_argument(
        "--text-tokens",
        type=int_between(1, 10**6),
        default=77,
        metavar="N",
        help="tokens of the prompts (default: %(default)s, as in SDXL)",
    )


def run(options: argparse.Namespace) -> None:
    """Print a table of components, or a line for each of several presets."""
    if not options.config and not options.preset:
        raise OmfaError("give --config FILE, --preset NAME, or both")
    if "jax" not in sys.modules:
        # nothing is computed, so do not reserve a GPU's memory
        os.environ["JAX_PLATFORMS"] = "cpu"
    from omfa_jax.models import UNETS

    names = list(UNETS) if "all" in options.preset else options.preset
    # "" keeps the preset of the config
    settings = [load_settings(options, name) for name in names or [""]]
    # components are for one network; several presets are compared by their totals
    if len(settings) == 1:
        print(format_components(*settings[0], options.text_tokens))
    else:
        print(format_presets(dict(zip(names, settings, strict=True)), options.text_tokens))


def load_settings(
    options: argparse.Namespace, preset: str
) -> "tuple[DiffusionSettings, UNetConfig, VAEConfig]":
    """Return canvas, UNet and VAE of the config (or the base config), with `preset` if given."""
    from omfa_jax.cli import config_lib
    from omfa_jax.models import get_vae_config
    from omfa_jax.train.network import make_unet_config

    config: Any = config_lib.load_config(options.config or BASE, options.overrides)
    vae_config = get_vae_config(config.model.vae)
    diffusion = config_lib.make_diffusion_settings(config, vae_config)
    return diffusion, make_unet_config(preset or config.model.unet, diffusion), vae_config


def format_components(
    diffusion: "DiffusionSettings", unet: "UNetConfig", vae: "VAEConfig", text_tokens: int
) -> str:
    """Return the table of one UNet's components, and of the VAE on the images of an example."""
    from omfa_jax.core.tasks import COMPONENTS
    from omfa_jax.planning.flops import count_unet_flops, count_vae_flops

    height, width, _ = diffusion.canvas.shape
    count = count_unet_flops(unet, height, width, text_tokens=text_tokens)
    out = [
        f"one example, canvas {height}x{width}, {text_tokens} text tokens; without"
        " rematerialization and optimizer",
        format_row("", "parameters", "forward GF", "step GF", "of step"),
        *format_component_rows(count),
        format_row("UNet", *format_figures(count), "100.0%"),
        "",
    ]
    sizes = dict(zip(COMPONENTS, diffusion.slots_px, strict=True)) | {"pose": (0, 0)}
    # the pose map is a fourth image that is encoded, of the person's size
    sizes["pose"] = sizes["person"]
    for name, size in sizes.items():
        for half, part in zip(("encoder", "decoder"), count_vae_flops(vae, *size), strict=True):
            label = f"VAE {half}, {name}"
            # no share of the step: the VAE is frozen except with objective = "autoencoder"
            out.append(format_row(label, *format_figures(part), ""))
    return "\n".join(out)


def format_component_rows(count: "FlopCounter") -> list[str]:
    """Return a line for each component, with its share of the step."""
    total = count.total.step
    return [
        format_row(
            name.replace("_", " "),
            f"{part.params:,}",
            f"{part.forward / 1e9:,.4g}",
            f"{part.step / 1e9:,.4g}",
            f"{part.step / total:.1%}",
        )
        for name, part in count.layer_costs.items()
    ]


def format_presets(
    settings: "dict[str, tuple[DiffusionSettings, UNetConfig, VAEConfig]]", text_tokens: int
) -> str:
    """Return a line for each preset."""
    from omfa_jax.planning.flops import count_unet_flops

    out = [format_row("preset, canvas", "parameters", "forward GF", "step GF", "")]
    for name, (diffusion, unet, _) in settings.items():
        height, width, _ = diffusion.canvas.shape
        count = count_unet_flops(unet, height, width, text_tokens=text_tokens)
        out.append(format_row(f"{name}, {height}x{width}", *format_figures(count), ""))
    return "\n".join(out)


def format_figures(count: "FlopCounter") -> tuple[str, str, str]:
    """Return the parameters, and the GFLOP of the forward pass and of a step, as text."""
    total = count.total
    return f"{total.params:,}", f"{total.forward / 1e9:,.5g}", f"{total.step / 1e9:,.5g}"


def format_row(*cells: str) -> str:
    """Return cells in aligned columns, the first one left-aligned."""
    first, *others = cells
    right = (f"{cell:>{width}}" for cell, width in zip(others, WIDTHS[1:], strict=True))
    return (f"{first:{WIDTHS[0]}}" + "".join(right)).rstrip()
