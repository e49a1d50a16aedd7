"""Weights of the metrics' networks: local files with known checksums; nothing is downloaded.

A network is looked up by file name, first in --metric-weights DIR, then in the cache of the library
that it comes from, so keep the original file names.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError, format_install_hint
from omfa_jax.core.npz_reader import require_uncompressed
from omfa_jax.core.path_checks import require_dir
from omfa_jax.evals.library_versions import get_versions

BLOCK_BYTES = 1 << 22
# in this order: a safetensors file cannot hold code
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class MetricUnavailableError(OmfaError):
    """A metric cannot be computed here; the message says what it needs. Others are unaffected."""


@dataclass(frozen=True)
class PublishedWeights:
    """A network's file (or folder) names, its origin, and the first digits of its SHA-256.

    `sha256` is "" where no checksum is published.
    """

    names: tuple[str, ...]
    origin: str
    sha256: str = ""


TORCHVISION = "https://download.pytorch.org/models/"
SOURCES = {
    "inception": PublishedWeights(
        ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        "the releases of github.com/mseitzer/pytorch-fid or github.com/toshas/torch-fidelity",
        "6726825d",
    ),
    "alex": PublishedWeights(("alexnet-owt-7be5be79.pth",), TORCHVISION, "7be5be79"),
    "vgg": PublishedWeights(("vgg16-397923af.pth",), TORCHVISION, "397923af"),
    "squeeze": PublishedWeights(("squeezenet1_1-b8a52dc0.pth",), TORCHVISION, "b8a52dc0"),
    "clip-vit-base-patch32": PublishedWeights(
        ("clip-vit-base-patch32",), "huggingface.co/openai/clip-vit-base-patch32"
    ),
    "dino-vits16": PublishedWeights(("dino-vits16",), "huggingface.co/facebook/dino-vits16"),
}


@dataclass(frozen=True)
class FoundWeights:
    """A network's file or folder, the file with its weights, and that file's SHA-256."""

    path: Path
    weights: Path
    sha256: str


class MetricWeights:
    """Finds weights by network name.

    `used` has everything found so far, `recent` everything asked for since it was last cleared.
    `skip_checksum` accepts files whose checksum differs from the published one; the scores file
    records the checksum that was used.
    """

    def __init__(self, folder: str | Path | None = None, *, skip_checksum: bool = False):
        self.folder = require_dir(folder, "metric weights", "--metric-weights") if folder else None
        self.skip_checksum = skip_checksum
        self.used: dict[str, FoundWeights] = {}
        self.recent: dict[str, FoundWeights] = {}

    def find(self, name: str) -> FoundWeights:
        """Return the network's files; MetricUnavailableError if missing, OmfaError if altered."""
        # hashing gigabytes of weights once is enough
        if name in self.used:
            self.recent[name] = self.used[name]
            return self.used[name]
        source = SOURCES[name]
        path = next((path for path in self._places(source) if path.exists()), None)
        if path is None:
            raise MetricUnavailableError(
                f"weights are missing: put {source.names[0]} (from {source.origin}) into the"
                " folder given to --metric-weights"
            )
        weights = _find_weights_file(path)
        digest = hash_file(weights)
        # "" is a prefix of every digest: weights without a published checksum always pass
        if not digest.startswith(source.sha256) and not self.skip_checksum:
            raise OmfaError(
                f"{weights}: its SHA-256 is {digest[:8]}..., expected {source.sha256}...: the"
                " file is damaged or is not the expected one; download it again, or use it with"
                " --skip-checksum"
            )
        self.used[name] = self.recent[name] = FoundWeights(path, weights, digest)
        return self.used[name]

    def register(self, name: str, weights: Path) -> Path:
        """Record weights that are part of a library's package, and return their path."""
        self.used[name] = self.recent[name] = FoundWeights(weights, weights, hash_file(weights))
        return weights

    def _places(self, source: PublishedWeights) -> Iterator[Path]:
        for name in source.names:
            if self.folder:
                yield self.folder / name
            yield _torch_home() / "hub" / "checkpoints" / name
        # the layout of the Hugging Face cache; sorted, so that the choice is stable
        model = source.origin.removeprefix("huggingface.co/").replace("/", "--")
        yield from sorted((_hf_home() / "hub" / f"models--{model}" / "snapshots").glob("*"))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise OmfaError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Return the tensors of a PyTorch weights file, on the CPU, without running code in it."""
    import torch

    try:
        # refuses archives that would expand to far more memory than their size
        require_uncompressed(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OmfaError(f"{path}: not a readable PyTorch weights file: {reason[:120]}") from None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise OmfaError(f"{path}: expected a state_dict (names to tensors), found something else")
    return dict(state)


def load_state(module: Any, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Load the state into the module; OmfaError if it belongs to another architecture."""
    try:
        # strict: a network with some random weights would give plausible but wrong scores
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise OmfaError(f"{path}: not the weights of {what}: {reason}") from None


def require_torchvision() -> None:
    """Raise MetricUnavailableError unless torchvision can be imported with the installed torch."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MetricUnavailableError(
            f"torchvision cannot be imported ({error}): {format_install_hint('eval')}"
        ) from None
    except (
        Exception
    ) as error:  # "operator torchvision::nms does not exist": a build for another torch
        import torch

        reason = next(iter(str(error).splitlines()), "")
        came = get_versions("torchvision").get("torchvision", "")
        raise MetricUnavailableError(
            f"torchvision {came} does not fit torch {torch.__version__} ({reason}): install"
            f" {format_matching_torchvision(torch.__version__)} from the index that torch came from"
        ) from None


def format_matching_torchvision(torch_version: str) -> str:
    """Return the requirement of the torchvision that was built for a torch release."""
    found = re.match(r"2\.(\d+)", torch_version)
    # torchvision 0.15 was released with torch 2.0, and one with each since
    return f"torchvision==0.{int(found[1]) + 15}.*" if found else "the torchvision of its release"


def require_library(module: str) -> None:
    """Raise MetricUnavailableError unless a library of the `eval` extra is installed."""
    import importlib.util

    # looked up without importing, which takes seconds for some of them
    if importlib.util.find_spec(module) is None:
        raise MetricUnavailableError(f"{module} is not installed: {format_install_hint('eval')}")


def _find_weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in FOLDER_WEIGHTS if (path / name).is_file()), None)
    if found is None or not (path / "config.json").is_file():
        raise OmfaError(
            f"{path}: expected a folder with config.json and {' or '.join(FOLDER_WEIGHTS)}"
        )
    return found


def _torch_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()


def _hf_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("HF_HOME", cache / "huggingface")).expanduser()
