"""LPIPS and DISTS from their authors' packages, with backbones loaded from local files."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.evals.metric_weights import (
    MetricWeights,
    load_state,
    read_state,
    require_library,
    require_torchvision,
)

PairScore = Callable[[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]], float]


def load_lpips(networks: MetricWeights, options: dict[str, Any], device: str) -> PairScore:
    """Return LPIPS v0.1 (Zhang et al. 2018) with `net` alex, vgg or squeeze, on inputs in -1..1.

    Raises MetricUnavailableError if the package or the backbone's weights are missing.
    """
    require_library("lpips")
    require_torchvision()
    import lpips

    net = options["net"]
    found = networks.find(net)
    # its checksum goes to the scores file: versions of the package could differ
    lin = networks.register(
        f"lpips {net}", Path(inspect.getfile(lpips)).parent / f"weights/v0.1/{net}.pth"
    )
    with _silence_warnings(), _patch_vgg16():
        # without pnet_rand the package downloads the backbone
        model = lpips.LPIPS(net=net, pnet_rand=True, model_path=str(lin), verbose=False)
    load_state(
        model.net, _trunk(read_state(found.path), model.net), found.path, f"{net} (torchvision's)"
    )
    return _scorer(model, device, lambda image: image * 2 - 1)


def load_dists(networks: MetricWeights, options: dict[str, Any], device: str) -> PairScore:
    """Return DISTS (Ding et al. 2020) on VGG16, on inputs in 0..1; errors as in `load_lpips`."""
    require_library("DISTS_pytorch")
    require_torchvision()
    from DISTS_pytorch import DISTS_pt

    found = networks.find("vgg")
    state = read_state(found.path)
    mixture = networks.register("dists", Path(inspect.getfile(DISTS_pt)).parent / "weights.pt")
    with _patch_vgg16():
        model = DISTS_pt.DISTS(load_weights=False)
    stages = {name: value for name, value in model.state_dict().items() if name.startswith("stage")}
    trunk = {
        name: value if name.endswith("filter") else state.get(_feature(name))
        for name, value in stages.items()
    }
    # buffers outside of the backbone keep the values that the package gives them
    known = {name: value for name, value in model.state_dict().items() if name not in stages}
    known |= {name: value for name, value in trunk.items() if value is not None}
    load_state(model, known | read_state(mixture), found.path, "VGG16 (torchvision's)")
    model.eval()
    return _scorer(model, device, lambda image: image)


def _scorer(model: Any, device: str, scale: Callable[[Any], Any]) -> PairScore:
    import torch

    model = model.to(device).requires_grad_(False)

    def tensor(image: UInt8[np.ndarray, "h w 3"]) -> Any:
        channels_first = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).to(device)
        return scale(channels_first.float() / 255)

    def score(image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w 3"]) -> float:
        with torch.inference_mode():
            return float(model(tensor(image), tensor(truth)))

    return score


def _trunk(state: dict[str, Any], net: Any) -> dict[str, Any]:
    """Return torchvision's tensors under lpips' names (slice2.3.weight is features.3.weight)."""
    wanted = {name: _feature(name) for name in net.state_dict()}
    return {name: state[source] for name, source in wanted.items() if source in state}


def _feature(name: str) -> str:
    return f"features.{name.split('.', 1)[1]}"


@contextlib.contextmanager
def _silence_warnings() -> Iterator[None]:
    """Silence torchvision's deprecation warnings about arguments of these packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _patch_vgg16() -> Iterator[None]:
    """Patch `torchvision.models.vgg16` to build only its convolutions, with random weights.

    Both packages call it: DISTS would download weights, and both would build and discard the half
    gigabyte of the classifier.
    """
    from torchvision import models  # pyright: ignore[reportMissingImports]

    build = models.vgg16
    layers = models.vgg.make_layers(models.vgg.cfgs["D"])
    models.vgg16 = lambda **_: SimpleNamespace(features=layers)
    try:
        yield
    finally:
        models.vgg16 = build
