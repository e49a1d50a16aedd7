"""Where the measures' networks come from: local files only, with checksums. Nothing is downloaded.

Each network has a name; it is looked for in --metric-weights DIR, then in the caches where its own
library would have put it. A file is told by its name, so keep the names that they come with.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfa_jax.core.archives import require_stored
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import require_dir

BLOCK_BYTES = 1 << 22
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class NotThere(OmfaError):
    """A metric cannot be computed here; the text says what is needed. The rest goes on."""


@dataclass(frozen=True)
class Source:
    """File (or folder) names by which a network is known, where from, and what its SHA-256 starts
    with ("" where no checksum is published)."""

    names: tuple[str, ...]
    origin: str
    sha256: str = ""


TORCHVISION = "https://download.pytorch.org/models/"
SOURCES = {
    "inception": Source(
        ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        "the releases of github.com/mseitzer/pytorch-fid or github.com/toshas/torch-fidelity",
        "6726825d",
    ),
    "alex": Source(("alexnet-owt-7be5be79.pth",), TORCHVISION, "7be5be79"),
    "vgg": Source(("vgg16-397923af.pth",), TORCHVISION, "397923af"),
    "squeeze": Source(("squeezenet1_1-b8a52dc0.pth",), TORCHVISION, "b8a52dc0"),
    "clip-vit-base-patch32": Source(
        ("clip-vit-base-patch32",), "huggingface.co/openai/clip-vit-base-patch32"
    ),
    "dino-vits16": Source(("dino-vits16",), "huggingface.co/facebook/dino-vits16"),
}


@dataclass(frozen=True)
class Found:
    """A network's file or folder, the file with its weights, and that file's SHA-256."""

    path: Path
    weights: Path
    sha256: str


class Networks:
    """Finds networks by name; `used` lists what was found so far, `recent` what was asked for since
    it was last cleared.

    `any_weights` accepts files whose checksum is not the published one (they are in the scores
    file by their own checksum).
    """

    def __init__(self, folder: str | Path | None = None, *, any_weights: bool = False):
        self.folder = require_dir(folder, "networks", "--metric-weights") if folder else None
        self.any_weights = any_weights
        self.used: dict[str, Found] = {}
        self.recent: dict[str, Found] = {}

    def find(self, name: str) -> Found:
        """Return where the network is; NotThere, or OmfaError if it is not what its name says."""
        if name in self.used:
            self.recent[name] = self.used[name]
            return self.used[name]
        source = SOURCES[name]
        path = next((path for path in self._places(source) if path.exists()), None)
        if path is None:
            raise NotThere(
                f"weights are not there: put {source.names[0]} (from {source.origin}) in the"
                " folder given to --metric-weights"
            )
        weights = _weights_in(path)
        digest = file_sha256(weights)
        if not digest.startswith(source.sha256) and not self.any_weights:
            raise OmfaError(
                f"{weights}: its SHA-256 is {digest[:8]}..., expected {source.sha256}...: another"
                " or a damaged file; get it again, or give --skip-checksum to score with it"
            )
        self.used[name] = self.recent[name] = Found(path, weights, digest)
        return self.used[name]

    def note(self, name: str, weights: Path) -> Path:
        """Record weights that came inside a library, and return their path."""
        self.used[name] = self.recent[name] = Found(weights, weights, file_sha256(weights))
        return weights

    def _places(self, source: Source) -> Iterator[Path]:
        for name in source.names:
            if self.folder:
                yield self.folder / name
            yield _torch_home() / "hub" / "checkpoints" / name
        model = source.origin.removeprefix("huggingface.co/").replace("/", "--")
        yield from sorted((_hf_home() / "hub" / f"models--{model}" / "snapshots").glob("*"))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise OmfaError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Return the tensors of a PyTorch weights file by name, on the CPU; runs no code in it."""
    import torch

    try:
        require_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in many ways
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OmfaError(f"{path}: not a readable PyTorch weights file: {reason[:120]}") from None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise OmfaError(f"{path}: expected a table of tensors (a state_dict), found something else")
    return dict(state)


def fill(module: Any, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Load the state into the module; one line of OmfaError if it is another architecture's."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise OmfaError(f"{path}: not the weights of {what}: {reason}") from None


def require_torchvision() -> None:
    """Raise NotThere unless torchvision can be imported beside the torch that is here."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NotThere(
            f"torchvision cannot be imported ({error}): pip install 'omfa_jax[eval]'"
        ) from None
    except Exception as error:  # "operator torchvision::nms does not exist": builds do not fit
        import torch

        reason = next(iter(str(error).splitlines()), "")
        raise NotThere(
            f"torchvision does not import beside torch {torch.__version__} ({reason}): install the"
            " torchvision that was built for this torch"
        ) from None


def require_library(module: str) -> None:
    """Raise NotThere unless a library of the `eval` extra is installed."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise NotThere(f"{module} is not installed: pip install 'omfa_jax[eval]'")


def _weights_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in FOLDER_WEIGHTS if (path / name).is_file()), None)
    if found is None or not (path / "config.json").is_file():
        raise OmfaError(f"{path}: expected config.json and {' or '.join(FOLDER_WEIGHTS)} in it")
    return found


def _torch_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()


def _hf_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("HF_HOME", cache / "huggingface")).expanduser()
