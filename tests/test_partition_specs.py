"""Which axes of a weight the rules shard."""

import pytest

from omfa_jax.parallel.mesh import MESH_AXES
from omfa_jax.parallel.mesh_resolution import make_abstract_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, match_partition_spec


def size_mesh(**sizes):
    return make_abstract_mesh({axis: sizes.get(axis, 1) for axis in MESH_AXES})


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        # column-parallel: tensor shards the output
        ("transformer_blocks/attn1/to_q", (10, 1280, 1280), (None, "fsdp", "tensor")),
        ("transformer_blocks/ff/net.0/proj", (10, 1280, 10240), (None, "fsdp", "tensor")),
        # row-parallel: tensor shards the input, which the layer before left sharded
        ("transformer_blocks/attn1/to_out.0", (10, 1280, 1280), (None, "tensor", "fsdp")),
        ("transformer_blocks/ff/net.2", (10, 5120, 1280), (None, "tensor", "fsdp")),
        ("resnets.0/conv1", (3, 3, 320, 640), (None, None, "fsdp", "tensor")),
    ],
)
def test_tensor_shards_the_inside_of_a_pair_of_layers(name, shape, axes):
    path = ("mid_block", *name.split("/"), "kernel")
    spec, _ = match_partition_spec(UNET_RULES, path, shape, size_mesh(fsdp=4, tensor=2))
    assert tuple(spec) == axes


def test_fsdp_moves_to_the_largest_dimension_that_it_divides():
    path = ("mid_block", "resnets.0", "conv1", "kernel")
    spec, _ = match_partition_spec(UNET_RULES, path, (4, 4, 9, 320), size_mesh(fsdp=4))
    assert tuple(spec) == (None, None, None, "fsdp")
