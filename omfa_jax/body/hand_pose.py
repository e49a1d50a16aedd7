"""Conversion of hand poses to rotations from the flat hand, from means and PCA components."""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from omfa_jax.body.body_file import read_npz
from omfa_jax.core.errors import OmfaError

_SIZE = 45


@dataclass(frozen=True, eq=False)
class HandBasis:
    """The hand statistics of an SMPL-X model file, left then right; zeros without a file.

    `mean` (2, 45) is the relaxed hand as rotations from the flat hand; the rows of `components`
    (2, 45, 45) are the principal components, or None.
    """

    mean: Float64[np.ndarray, "2 45"]
    components: Float64[np.ndarray, "2 45 45"] | None

    def to_flat_hand(self, pose: np.ndarray, side: int, *, from_mean: bool) -> np.ndarray:
        """Return rotations (45,) from the flat hand, for a pose (45,) or its first k components.

        `side` is 0 for the left hand. With `from_mean`, zeros mean the relaxed hand, as with
        smplx's flat_hand_mean=False. Raises OmfaError for components without a model file.
        """
        pose = np.asarray(pose, np.float64).ravel()
        if not pose.size:
            raise OmfaError(f"hand pose: expected {_SIZE} numbers or fewer, got none")
        if pose.size < _SIZE and not pose.any():
            # the relaxed hand has no components
            pose = np.zeros(_SIZE)
        if pose.size < _SIZE:
            if self.components is None:
                raise OmfaError(
                    f"a hand pose of {pose.size} numbers is given in principal components, which"
                    " need --smplx-model SMPLX_NEUTRAL.npz"
                )
            pose = pose @ self.components[side, : pose.size]
        if pose.size != _SIZE:
            raise OmfaError(f"hand pose: expected {_SIZE} numbers or fewer, got {pose.size}")
        return pose + self.mean[side] if from_mean else pose


def load_hand_basis(model_path: str | os.PathLike | None) -> HandBasis:
    """Return the hand statistics of an SMPL-X .npz; zeros without a file or where it has none."""
    arrays = {} if model_path is None else read_npz(model_path, "body model", "--smplx-model")
    mean, components = np.zeros((2, _SIZE)), np.zeros((2, _SIZE, _SIZE))
    # both hands or none: trimmed model files may lack the components
    found = 0
    for side, letter in enumerate("lr"):
        if f"hands_mean{letter}" in arrays:
            mean[side] = arrays[f"hands_mean{letter}"].reshape(_SIZE)
        if f"hands_components{letter}" in arrays:
            components[side] = arrays[f"hands_components{letter}"].reshape(_SIZE, _SIZE)
            found += 1
    return HandBasis(mean, components if found == 2 else None)
