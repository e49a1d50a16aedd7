"""A number per array of a tree: in its place, from programs that serve several parts of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.train.checkpoints.leaf_groups import compute_per_leaf, split_into_groups
from omfa_jax.train.state import make_state


def test_a_states_trees_are_groups_of_equal_kinds():
    params = {
        f"layer_{n}": {"kernel": jnp.ones((2, n % 3 + 1)), "bias": jnp.ones(3)} for n in range(7)
    }
    state = make_state(params, optax.adamw(1e-3), 0.9)
    kinds = [leaf.shape for leaf in jax.tree.leaves(state)]
    *alike, rest = split_into_groups(kinds)
    assert len(alike) == 4
    assert all([kinds[at] for at in group] == [kinds[at] for at in alike[0]] for group in alike)
    # the step and Adam's count
    assert [kinds[at] for at in rest] == [(), ()]
    assert sorted(sum(alike, rest)) == list(range(len(kinds)))


def test_different_arrays_are_one_group():
    assert split_into_groups(["a", "b", "c"]) == [[0, 1, 2]]
    assert split_into_groups([]) == []


def test_values_are_in_the_places_of_their_arrays():
    mesh = make_mesh(MeshSettings(2, 2, 2))
    rng = np.random.default_rng(0)
    leaves = [rng.standard_normal((4 + 4 * (n % 2), 6)).astype(np.float32) for n in range(13)]
    expected = [leaf.max() for leaf in leaves]
    assert list(compute_per_leaf(jnp.max, leaves)) == expected
    sharded = [
        jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("fsdp" if n % 3 else None)))
        for n, leaf in enumerate(leaves)
    ]
    assert list(compute_per_leaf(jnp.max, sharded)) == expected
