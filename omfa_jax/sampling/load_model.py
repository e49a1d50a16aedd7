"""Load a model from an imported or exported folder."""

from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.imported_folder import load_weights
from omfa_jax.weights.model_folder import make_model
from omfa_jax.weights.omfa_model import Model


def load_model_folder(path: str | Path) -> Model:
    """Return the model of a diffusers or imported folder with omfa.json and a prompt table."""
    path = Path(path)
    if not path.is_dir():
        raise OmfaError(
            f"no model at {path}; --checkpoint takes a training workdir, one of its steps, or a"
            " folder in diffusers form"
        )
    model = load_weights(path)
    return make_model(model, model.unet_params, model.vae_params, str(path))
