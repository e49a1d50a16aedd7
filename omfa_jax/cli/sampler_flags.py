"""The flags of the sampler, shared by every command that generates images."""

import argparse

from omfa_jax.cli.flags import SEED_TYPE, make_rule_type, parse_any_path_text
from omfa_jax.diffusion.denoising_loop import SAMPLER_RULES, SamplerSettings
from omfa_jax.diffusion.samplers import SAMPLERS

# of --dtype where pictures are generated
SAMPLE_DTYPES = ("auto", "float32", "bfloat16")


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint and --no-ema."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="training workdir, one of its steps, model folder, or tiny (the small model that"
        " comes with the package)",
    )
    parser.add_argument(
        "--no-ema",
        action="store_true",
        help="use the trained weights instead of their moving average (EMA)",
    )


def add_sampler_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each field of SamplerSettings, with its default, and --seed."""
    add = parser.add_argument
    add(
        "--steps",
        type=make_rule_type(SAMPLER_RULES["steps"]),
        # from the settings, so that a flag that is not given means what the library's default does
        default=SamplerSettings.steps,
        help="denoising steps",
    )
    add(
        "--sampler",
        default=SamplerSettings.sampler,
        metavar="NAME",
        help=f"sampler: {', '.join(SAMPLERS)}",
    )
    add(
        "--guidance",
        type=make_rule_type(SAMPLER_RULES["guidance"]),
        default=SamplerSettings.guidance,
        metavar="SCALE",
        help="classifier-free guidance scale; 1 disables guidance",
    )
    add(
        "--guidance-rescale",
        type=make_rule_type(SAMPLER_RULES["guidance_rescale"]),
        default=SamplerSettings.guidance_rescale,
        metavar="PHI",
        help="guidance rescale factor, 0 to 1; 0 disables it",
    )
    add("--seed", type=SEED_TYPE, default=0, help="random seed of the initial noise")


def make_sampler_settings(options: argparse.Namespace) -> SamplerSettings:
    """Return the settings that the flags of `add_sampler_flags` give."""
    return SamplerSettings(
        options.steps, options.guidance, options.sampler, options.guidance_rescale
    )
