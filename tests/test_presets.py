"""The preset tables and what the configs refuse."""

import itertools

import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import (
    UNETS,
    VAES,
    UNetConfig,
    VAEConfig,
    get_unet_config,
    get_vae_config,
)
from omfa_jax.models.presets import LADDER_WIDTHS, scale_sdxl
from omfa_jax.planning.flops import count_unet_flops


def size_of(config: UNetConfig) -> int:
    """Return the parameters; test_flops compares the closed form with the networks themselves."""
    return count_unet_flops(config, 8, 8).total.params


def test_sdxl_is_the_default():
    assert UNETS["sdxl"] == UNetConfig() and VAES["sdxl"] == VAEConfig()
    assert get_unet_config("sdxl", in_channels=9).in_channels == 9
    assert VAES["sdxl"].stride == 8 and UNETS["sdxl"].stride == 4
    assert UNETS["sdxl"].time_embed_dim == 1280


def test_ladder_grows():
    sizes = [size_of(UNETS[name]) for name in ("xs", "s", "m", "l")] + [2_567_463_684]
    ratios = [larger / smaller for smaller, larger in itertools.pairwise(sizes)]
    # xs is cheaper still: its conditioning is 64 wide where the others take SDXL's
    assert all(2.5 < ratio < 9 for ratio in ratios), sizes


def test_the_ladders_top_is_sdxl_and_its_rule_is_the_table():
    assert scale_sdxl(320) == UNETS["ladder_320"] == UNETS["sdxl"]
    for width in LADDER_WIDTHS:
        config = UNETS[f"ladder_{width}"]
        assert config.block_channels == (width, 2 * width, 4 * width)
        heads = [c // n for c, n in zip(config.block_channels, config.heads, strict=True)]
        assert all(12 <= dim <= 64 for dim in heads) and (width < 64 or heads[2] == 64)
        assert 3 <= width // config.norm_groups <= 10
    with pytest.raises(OmfaError, match="160 channels do not divide into 3 heads"):
        scale_sdxl(80)


def test_the_ladder_climbs_evenly():
    sizes = [size_of(scale_sdxl(width)) for width in LADDER_WIDTHS]
    assert sizes[0] < 1e6 and sizes[-1] == 2_567_463_684 and len(sizes) >= 8
    ratios = [larger / smaller for smaller, larger in itertools.pairwise(sizes)]
    assert all(1.7 < ratio < 3.1 for ratio in ratios), sizes


@pytest.mark.parametrize("name", ["tiny", "xs"])
def test_small_presets_fit_their_vae(name):
    assert UNETS[name].out_channels == VAES[name].latent_channels


def test_unknown_names_get_a_hint():
    with pytest.raises(OmfaError, match="unknown UNet preset 'sdx'; did you mean 'sdxl'"):
        get_unet_config("sdx")
    with pytest.raises(OmfaError, match="unknown VAE preset"):
        get_vae_config("huge")
    with pytest.raises(OmfaError, match="did you mean 'heads'"):
        get_unet_config("tiny", head=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_channels": (320,), "transformer_depth": (0,)}, "2 levels or more"),
        ({"transformer_depth": (0, 2)}, "one entry for each"),
        ({"block_channels": (320, 640, 1296)}, "norm_groups=32"),
        ({"heads": (5, 10)}, "heads .* one entry for each"),
        ({"heads": (5, 10, 12)}, "1280 channels do not divide into 12 heads"),
        ({"heads": (0, 10, 20)}, "320 channels do not divide into 0 heads"),
        ({"time_id_dim": 3}, "must be even"),
    ],
)
def test_impossible_unets_are_refused(changes, words):
    with pytest.raises(OmfaError, match=words):
        UNetConfig(**changes)


def test_impossible_vae_is_refused():
    with pytest.raises(OmfaError, match="norm_groups=32"):
        VAEConfig(block_channels=(128, 200))
