"""OMFA ("One Model For All", arXiv 2508.04559) in JAX: try-on and try-off by partial diffusion.

The names of `__all__` are the public interface. They are imported on first use, so that
`import omfa_jax` loads neither JAX nor PyTorch:

    import omfa_jax as omfa

    model = omfa.load_model("runs/vitonhd")
    me = omfa.load_person(omfa.SlotFitter(model.settings), "me.jpg", pose="me.npz", face="face.jpg")
    sampler = omfa.Sampler(model, omfa.SamplerSettings(steps=50, guidance=2.0))
    people = omfa.try_on(sampler, "shirt.jpg", me.face, me.pose)
    images = me.restore(people)  # at the photo's size
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omfa_jax.core.errors import OmfaError
    from omfa_jax.diffusion.denoising_loop import SamplerSettings
    from omfa_jax.model_loading import load_model
    from omfa_jax.sampling.image_inputs import SlotFitter
    from omfa_jax.sampling.person_inputs import load_person
    from omfa_jax.sampling.sampler import Sampler
    from omfa_jax.sampling.task_functions import transfer, try_off, try_on, turntable

__version__ = "0.1.0"

__all__ = [
    "OmfaError",
    "Sampler",
    "SamplerSettings",
    "SlotFitter",
    "load_model",
    "load_person",
    "transfer",
    "try_off",
    "try_on",
    "turntable",
]

# public name -> module that defines it
_MODULES = {
    "OmfaError": "omfa_jax.core.errors",
    "Sampler": "omfa_jax.sampling.sampler",
    "SamplerSettings": "omfa_jax.diffusion.denoising_loop",
    "SlotFitter": "omfa_jax.sampling.image_inputs",
    "load_model": "omfa_jax.model_loading",
    "load_person": "omfa_jax.sampling.person_inputs",
    "transfer": "omfa_jax.sampling.task_functions",
    "try_off": "omfa_jax.sampling.task_functions",
    "try_on": "omfa_jax.sampling.task_functions",
    "turntable": "omfa_jax.sampling.task_functions",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    # kept, so that later uses do not come here again
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
