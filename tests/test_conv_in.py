"""What the first convolution's channels mean: every published width, every way to a config's."""

import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.weights import conv_in
from omfa_jax.weights.conv_in import ChannelMap, infer_source_inputs, make_input_groups

N, M, C, P = "noisy", "mask", "clean", "pose"
SETTINGS = DiffusionSettings((Task("try_on", ("person",), 1.0, "a"),), ((64, 64),) * 3)


@pytest.mark.parametrize(
    ("width", "names", "rule"),
    [
        (4, (N,), "SDXL base"),
        (9, (N, M, C), "SDXL-inpainting"),
        (13, (N, M, C, P), "IDM-VTON"),
    ],
)
def test_published_widths_are_known(width, names, rule):
    found = infer_source_inputs(width, 4)
    assert (
        found.groups == make_input_groups(names, 4)
        and found.rule == f"{rule}, by its width {width}"
    )
    assert conv_in.count_channels(found.groups) == width


def test_omfa_json_and_the_flag_come_before_the_width():
    omfa = SETTINGS.to_json()
    assert infer_source_inputs(9, 4, omfa).groups == make_input_groups((N, M, P), 4)
    assert infer_source_inputs(9, 4, omfa, (N, P, M)).groups == make_input_groups((N, P, M), 4)
    # a base model's folder may carry the omfa.json of what it will be trained for
    base = infer_source_inputs(4, 4, omfa)
    assert base.groups == ((N, 4),)
    assert base.rule == "SDXL base, by its width 4; omfa.json asks for 9"


def test_an_unknown_width_needs_the_flag():
    assert infer_source_inputs(12, 4) is None
    with pytest.raises(OmfaError, match=r"some/unet: conv_in takes 12 .* --source-inputs"):
        conv_in.require_known(None, 12, "some/unet")
    assert infer_source_inputs(12, 4, named=(N, C, P)).groups == ((N, 4), (C, 4), (P, 4))
    with pytest.raises(
        OmfaError, match=r"noisy,mask is noisy 4, mask 1, 5 channels in total.* takes 12"
    ):
        infer_source_inputs(12, 4, named=(N, M))
    with pytest.raises(OmfaError, match="unknown input of a UNet 'nosy'; did you mean 'noisy'"):
        infer_source_inputs(12, 4, named=("nosy",))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ((N,), (N, M, P)),
        ((N, M, C), (N, M, C, P)),
        ((N, M, C), (N, P, C, M)),
        ((N, M, C, P), (N, M, C, P)),
        ((N, C, P), (N, M, P, C)),
    ],
)
def test_the_network_sees_what_it_saw(source, wanted):
    """On the same named inputs the mapped kernel gives what the source's gave."""
    rng = np.random.default_rng(0)
    before, after = make_input_groups(source, 4), make_input_groups(wanted, 4)
    kernel = rng.standard_normal((3, 3, conv_in.count_channels(before), 5)).astype(np.float32)
    change = ChannelMap(conv_in.SourceInputs(before, "test"), after)
    mapped = change.apply(kernel)
    assert mapped.shape == (3, 3, conv_in.count_channels(after), 5)
    planes = {name: rng.standard_normal((3, 3, n)) for name, n in after}

    def output(groups, weights):
        seen = np.concatenate([planes[name] for name, _ in groups], axis=-1)
        return np.einsum("hwi,hwio->o", seen, weights)

    np.testing.assert_allclose(output(after, mapped), output(before, kernel), rtol=1e-12)
    new = [name for name in wanted if name not in source]
    assert change.is_changed == (source != wanted)
    assert all(name in change.note.rpartition(";")[2] for name in new)


def test_no_trained_weights_are_dropped():
    known = infer_source_inputs(9, 4)
    with pytest.raises(OmfaError, match=r"takes noisy 4, mask 1, clean 4, .* has no 'clean'"):
        ChannelMap(known, make_input_groups((N, M, P), 4))
    with pytest.raises(OmfaError, match=r"'noisy' has 4 channels .* and 12 in the config"):
        ChannelMap(known, make_input_groups((N, M, C), 12, 3))


def test_groups_follow_the_layout():
    assert conv_in.get_input_groups(SETTINGS) == ((N, 4), (M, 1), (P, 4))
    channel = DiffusionSettings(SETTINGS.tasks, SETTINGS.slots_px, layout="channel")
    assert conv_in.get_input_groups(channel) == ((N, 12), (M, 3), (P, 12))
    assert conv_in.count_channels(conv_in.get_input_groups(channel)) == channel.in_channels
