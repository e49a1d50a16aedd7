"""LPIPS and DISTS by their authors' packages, with trunks read from local files."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.evals.networks import (
    Networks,
    fill,
    read_state,
    require_library,
    require_torchvision,
)

PairScore = Callable[[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]], float]


def load_lpips(networks: Networks, options: dict[str, Any], device: str) -> PairScore:
    """Return LPIPS v0.1 (Zhang 2018) with `net` alex, vgg or squeeze; inputs are scaled to -1..1.

    NotThere if the package or the trunk's weights are not there.
    """
    require_library("lpips")
    require_torchvision()
    import lpips

    net = options["net"]
    found = networks.find(net)
    lin = networks.note(
        f"lpips {net}", Path(inspect.getfile(lpips)).parent / f"weights/v0.1/{net}.pth"
    )
    with _quiet(), _features_only():
        # pnet_rand: else the package downloads the trunk
        model = lpips.LPIPS(net=net, pnet_rand=True, model_path=str(lin), verbose=False)
    fill(model.net, _trunk(read_state(found.path), model.net), found.path, f"{net} (torchvision's)")
    return _scorer(model, device, lambda picture: picture * 2 - 1)


def load_dists(networks: Networks, options: dict[str, Any], device: str) -> PairScore:
    """Return DISTS (Ding 2020) on VGG16; inputs are 0..1. NotThere as `load_lpips`."""
    require_library("DISTS_pytorch")
    require_torchvision()
    from DISTS_pytorch import DISTS_pt

    found = networks.find("vgg")
    state = read_state(found.path)
    mixture = networks.note("dists", Path(inspect.getfile(DISTS_pt)).parent / "weights.pt")
    with _features_only():
        model = DISTS_pt.DISTS(load_weights=False)
    stages = {name: value for name, value in model.state_dict().items() if name.startswith("stage")}
    trunk = {
        name: value if name.endswith("filter") else state.get(_feature(name))
        for name, value in stages.items()
    }
    known = {name: value for name, value in model.state_dict().items() if name not in stages}
    known |= {name: value for name, value in trunk.items() if value is not None}
    fill(model, known | read_state(mixture), found.path, "VGG16 (torchvision's)")
    model.eval()
    return _scorer(model, device, lambda picture: picture)


def _scorer(model: Any, device: str, scale: Callable[[Any], Any]) -> PairScore:
    import torch

    model = model.to(device).requires_grad_(False)

    def tensor(picture: UInt8[np.ndarray, "h w 3"]) -> Any:
        channels_first = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()).to(device)
        return scale(channels_first.float() / 255)

    def score(image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w 3"]) -> float:
        with torch.inference_mode():
            return float(model(tensor(image), tensor(truth)))

    return score


def _trunk(state: dict[str, Any], net: Any) -> dict[str, Any]:
    """Return torchvision's tensors under lpips' names: slice2.3.weight is features.3.weight."""
    wanted = {name: _feature(name) for name in net.state_dict()}
    return {name: state[source] for name, source in wanted.items() if source in state}


def _feature(name: str) -> str:
    return f"features.{name.split('.', 1)[1]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torchvision's words about arguments that these packages give it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _features_only() -> Iterator[None]:
    """Let `torchvision.models.vgg16` build its convolutions only, at random, whatever is asked.

    Both packages call it: DISTS to download weights, both to throw half a gigabyte of classifier
    away.
    """
    from torchvision import models  # pyright: ignore[reportMissingImports]

    build = models.vgg16
    layers = models.vgg.make_layers(models.vgg.cfgs["D"])
    models.vgg16 = lambda **_: SimpleNamespace(features=layers)
    try:
        yield
    finally:
        models.vgg16 = build
