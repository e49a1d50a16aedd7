"""Paths for Orbax, which opens object storage with fsspec and TensorStore by itself."""

from etils import epath

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath

# Orbax 0.12 gives TensorStore a driver for gs:// alone, and takes any other URL for a folder
SCHEMES = ("gs",)


def to_orbax(path: AnyPath) -> epath.Path:
    """Return the path for Orbax's functions."""
    if isinstance(path, RemotePath):
        require_checkpoint_storage(path, "the workdir")
        # the first use sets how fsspec lists, for all clients of this process
        _ = path.fs
    return epath.Path(str(path))


def require_checkpoint_storage(path: AnyPath, what: str) -> None:
    """Raise an OmfaError for object storage that Orbax cannot keep checkpoints in."""
    if isinstance(path, RemotePath) and path.scheme not in SCHEMES:
        raise OmfaError(
            f"{path}: checkpoints cannot be kept on {path.scheme}:// (Orbax has no driver for it):"
            f" give {what} on gs:// or on a disk; records, latents and models may be on"
            f" {path.scheme}://"
        )
