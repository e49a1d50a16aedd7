"""Random keys by name and step, independent of the mesh, the hosts and restarts."""

import zlib

import jax
from jaxtyping import Array, Int


def make_key(root: jax.Array, name: str, step: int | Int[Array, ""]) -> jax.Array:
    """Return fold_in(fold_in(root, name), step)."""
    # crc32 and not hash(): Python salts the hash of strings in every process
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def make_row_keys(
    root: jax.Array, name: str, step: Array | int, rows: Int[Array, "b"]
) -> jax.Array:
    """Return a key for each row of the global batch: (b,) keys."""
    key = make_key(root, name, step)
    # one draw of shape (b, ...) would depend on how the batch is divided among devices
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
