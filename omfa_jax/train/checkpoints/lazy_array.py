"""Arrays of a checkpoint that are read from disk when numpy first needs them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from omfa_jax.core import trees
from omfa_jax.core.paths import AnyPath
from omfa_jax.train.checkpoints.checksums import Record, is_altered
from omfa_jax.train.checkpoints.integrity import DamagedCheckpointError, convert_error
from omfa_jax.train.checkpoints.orbax_paths import to_orbax
from omfa_jax.train.checkpoints.restore import tolerate_late_reads

# arrays are read in chunks of about this size, since every Orbax read costs a tenth of a second
CHUNK_BYTES = 500_000_000


class LazyArray:
    """One array of a saved item, read from disk by `np.asarray`."""

    def __init__(self, reader: "_Reader", path: trees.KeyPath, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._reader, self._path = reader, path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._reader.read(self._path)
        return array if dtype is None else array.astype(dtype, copy=False)


def make_lazy_tree(
    folder: AnyPath, tree: Mapping[str, Any], prefix: trees.KeyPath, record: Record
) -> dict[str, Any]:
    """Return lazy arrays under `prefix` of a saved item whose metadata is `tree`.

    `record` has their checksums, if any; reading an altered array raises DamagedCheckpointError.
    One chunk is in memory at a time, so use them in the tree's order.
    """
    for name in prefix:
        tree = tree[name]
    leaves = {(*prefix, *path): leaf for path, leaf in trees.flatten(tree)}
    reader = _Reader(folder, leaves, record)
    return trees.unflatten(
        {
            # read by its full path in the item, known to the caller by the rest
            path[len(prefix) :]: LazyArray(reader, path, tuple(leaf.shape), leaf.dtype)
            for path, leaf in leaves.items()
        }
    )


class _Reader:
    """Reads a saved item chunk by chunk and keeps the last chunk."""

    def __init__(self, folder: AnyPath, leaves: Mapping[trees.KeyPath, Any], record: Record):
        self._folder, self._leaves, self._record = folder, leaves, record
        self._held: dict[trees.KeyPath, np.ndarray] = {}
        self._runs: dict[trees.KeyPath, list[trees.KeyPath]] = {}
        run: list[trees.KeyPath] = []
        size = 0
        for path, leaf in leaves.items():
            new = int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
            if run and size + new > CHUNK_BYTES:
                run, size = [], 0
            run.append(path)
            size += new
            self._runs[path] = run

    def read(self, path: trees.KeyPath) -> np.ndarray:
        """Return the array at `path`."""
        if path not in self._held:
            # free the last chunk before reading the next
            self._held = {}
            self._held = self._restored(self._runs[path])
        return self._held[path]

    def _restored(self, run: list[trees.KeyPath]) -> dict[trees.KeyPath, np.ndarray]:
        item, how = {}, {}
        for path in run:
            leaf = self._leaves[path]
            item[path] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            # numpy and not jax: the arrays go to a file and never to a device
            how[path] = ocp.RestoreArgs(restore_type=np.ndarray)
        arguments = ocp.args.PyTreeRestore(
            item=trees.unflatten(item), restore_args=trees.unflatten(how), partial_restore=True
        )
        handler = ocp.PyTreeCheckpointHandler()
        try:
            with tolerate_late_reads():
                tree = handler.restore(to_orbax(self._folder), args=arguments)
        except Exception as error:
            raise convert_error(error, self._folder) from error
        finally:
            handler.close()
        arrays = dict(trees.flatten(tree))
        for path, array in arrays.items():
            name = ".".join(path)
            if is_altered(array, self._record.get(name)):
                raise DamagedCheckpointError(
                    f"checkpoint {self._folder} is damaged: {name} differs from what was saved"
                )
        return arrays
