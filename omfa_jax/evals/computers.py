"""From a protocol's choices to functions, each computation once however many metrics need it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from omfa_jax.evals.metrics.features import load_clip, load_dino, load_inception
from omfa_jax.evals.metrics.perceptual import load_dists, load_lpips
from omfa_jax.evals.metrics.ssim import ssim
from omfa_jax.evals.networks import Networks, NotThere, require_library
from omfa_jax.evals.protocol import MetricChoice
from omfa_jax.evals.psnr import psnr
from omfa_jax.evals.versions import versions

Loader = Callable[[Networks, dict[str, Any], str], Callable[..., Any]]


def _load_ssim(networks: Networks, options: dict[str, Any], device: str) -> Callable[..., float]:
    require_library("skimage")
    return lambda image, truth: ssim(image, truth, options)


def _load_psnr(networks: Networks, options: dict[str, Any], device: str) -> Callable[..., float]:
    return psnr


# kind -> (how it is loaded, the libraries that compute it)
PAIRWISE: dict[str, tuple[Loader, tuple[str, ...]]] = {
    "ssim": (_load_ssim, ("scikit-image",)),
    "psnr": (_load_psnr, ()),
    "lpips": (load_lpips, ("lpips", "torch", "torchvision")),
    "dists": (load_dists, ("DISTS-pytorch", "torch", "torchvision")),
}
# how they are loaded, the options that change a picture's features (the others only change what is
# made of these), the libraries that compute them
INCEPTION = (load_inception, ("resize", "input"), ("torch-fidelity", "torch"))
CLIP = (load_clip, ("model", "resize"), ("transformers", "torch"))
DINO = (load_dino, ("model", "resize", "feature"), ("transformers", "torch"))
FEATURES: dict[str, tuple[Loader, tuple[str, ...], tuple[str, ...]]] = {
    "fid": INCEPTION,
    "kid": INCEPTION,
    "clip_fid": CLIP,
    "clip_i": CLIP,
    "dino": DINO,
}


@dataclass(frozen=True)
class Computer:
    """One computation: its identity (for the cache) and the function.

    A pairwise function takes two uint8 pictures and returns a float; a feature function takes one
    and returns float32 features.
    """

    identity: dict[str, Any]
    choice: MetricChoice
    function: Callable[..., Any]

    @property
    def is_pairwise(self) -> bool:
        """Whether it compares two pictures, and not describes one."""
        return self.choice.kind in PAIRWISE


@dataclass(frozen=True)
class Computers:
    """{metric: its computation}, metrics that share one have the same; and why some have none."""

    by_metric: dict[str, Computer]
    absent: dict[str, str]
    libraries: dict[str, str]

    @property
    def distinct(self) -> list[Computer]:
        """Every computation once."""
        return list({id(computer): computer for computer in self.by_metric.values()}.values())


def load_computers(choices: dict[str, MetricChoice], networks: Networks, device: str) -> Computers:
    """Load what the metrics need; what is not there is told in `absent`, what is wrong raises."""
    made: dict[str, Computer] = {}
    shared: dict[str, Computer] = {}
    absent: dict[str, str] = {}
    libraries: dict[str, str] = {}
    for key, choice in choices.items():
        if choice.kind in PAIRWISE:
            loader, names = PAIRWISE[choice.kind]
            options = choice.options
        else:
            loader, wanted, names = FEATURES[choice.kind]
            options = {name: choice.options[name] for name in wanted}
        known = versions(*names)
        plain = {
            "computation": loader.__name__,
            "options": options,
            "prepare": asdict(choice.prepare),
            "versions": known,
            "device": device if "torch" in names else "",
        }
        name = repr(sorted(plain.items()))
        if name not in shared:
            networks.recent.clear()
            try:
                function = loader(networks, options, device)
            except NotThere as error:
                absent[key] = str(error)
                continue
            weights = {name: found.sha256 for name, found in networks.recent.items()}
            shared[name] = Computer({**plain, "weights": weights}, choice, function)
        made[key] = shared[name]
        libraries |= known
    return Computers(made, absent, libraries)
