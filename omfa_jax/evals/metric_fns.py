"""Metric functions of a protocol; metrics that need the same computation share one function."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from omfa_jax.evals.library_versions import get_versions
from omfa_jax.evals.metric_weights import MetricUnavailableError, MetricWeights, require_library
from omfa_jax.evals.metrics.feature_extractors import load_clip, load_dino, load_inception
from omfa_jax.evals.metrics.perceptual_metrics import load_dists, load_lpips
from omfa_jax.evals.metrics.ssim import ssim
from omfa_jax.evals.protocol_spec import MetricSpec
from omfa_jax.evals.psnr import psnr

log = logging.getLogger(__name__)

Loader = Callable[[MetricWeights, dict[str, Any], str], Callable[..., Any]]


def _load_ssim(
    networks: MetricWeights, options: dict[str, Any], device: str
) -> Callable[..., float]:
    require_library("skimage")
    return lambda image, truth: ssim(image, truth, options)


def _load_psnr(
    networks: MetricWeights, options: dict[str, Any], device: str
) -> Callable[..., float]:
    return psnr


# kind -> (loader, libraries that compute it)
PAIRWISE: dict[str, tuple[Loader, tuple[str, ...]]] = {
    "ssim": (_load_ssim, ("scikit-image",)),
    "psnr": (_load_psnr, ()),
    "lpips": (load_lpips, ("lpips", "torch", "torchvision")),
    "dists": (load_dists, ("DISTS-pytorch", "torch", "torchvision")),
}
# (loader, options that change an image's features, libraries that compute them); other options only
# change how the features are aggregated, so metrics that differ in those share one cache
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
class MetricFn:
    """A metric function with its identity, which selects its cache.

    A pairwise function takes two uint8 images and returns a float; a feature function takes one
    image and returns float32 features.
    """

    identity: dict[str, Any]
    choice: MetricSpec
    function: Callable[..., Any]

    @property
    def is_pairwise(self) -> bool:
        """Whether the function compares two images (otherwise it describes one)."""
        return self.choice.kind in PAIRWISE


@dataclass(frozen=True)
class MetricFns:
    """The function of each metric (shared where possible), and the reasons why some have none."""

    by_metric: dict[str, MetricFn]
    unavailable: dict[str, str]
    libraries: dict[str, str]

    @property
    def distinct(self) -> list[MetricFn]:
        """The functions without repeats."""
        return list({id(computer): computer for computer in self.by_metric.values()}.values())


def load_metric_fns(
    choices: dict[str, MetricSpec], networks: MetricWeights, device: str
) -> MetricFns:
    """Load the functions of the metrics.

    A metric whose weights or libraries are missing is listed in `unavailable`; damaged weights
    raise an OmfaError.
    """
    made: dict[str, MetricFn] = {}
    shared: dict[str, MetricFn] = {}
    absent: dict[str, str] = {}
    libraries: dict[str, str] = {}
    for key, choice in choices.items():
        if choice.kind in PAIRWISE:
            loader, names = PAIRWISE[choice.kind]
            options = choice.options
        else:
            loader, wanted, names = FEATURES[choice.kind]
            options = {name: choice.options[name] for name in wanted}
        known = get_versions(*names)
        # the loader's name is part of the identity: renaming it would discard all cached values
        plain = {
            "computation": loader.__name__,
            "options": options,
            "prepare": asdict(choice.prepare),
            "versions": known,
            "device": device if "torch" in names else "",
        }
        name = repr(sorted(plain.items()))
        if name not in shared:
            # `recent` then holds the weights of this loader alone
            networks.recent.clear()
            try:
                function = loader(networks, options, device)
            except MetricUnavailableError as error:
                absent[key] = str(error)
                continue
            weights = {name: found.sha256 for name, found in networks.recent.items()}
            shared[name] = MetricFn({**plain, "weights": weights}, choice, function)
        made[key] = shared[name]
        libraries |= known
    _warn_of_missing(absent)
    return MetricFns(made, absent, libraries)


def _warn_of_missing(absent: Mapping[str, str]) -> None:
    """Log each reason once, with its metrics: before the scoring, which may take an hour."""
    for reason in dict.fromkeys(absent.values()):
        keys = ", ".join(key for key, why in absent.items() if why == reason)
        log.warning("not computed: %s: %s", keys, reason)
