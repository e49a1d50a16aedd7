"""The parts of hostile calls: a case, small valid inputs, and files that lie about themselves."""

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).parents[1]
TINY = str(REPO / "omfa_jax/assets/tiny")
TINY_CONFIG, BASE = str(REPO / "configs/tiny.py"), str(REPO / "configs/base.py")
NOBODY = 65534
REFUSED = frozenset({2})
# refused, or done with a line about what was wrong
EITHER = frozenset({0, 2})


@dataclass(frozen=True)
class Case:
    """One call: `words` with {w} for the inputs' folder and {o} for an empty output folder.

    `make` prepares a copy of the inputs' folder. `convert`: of convert_weights.py. `uid`: the other
    user, to whom an empty folder, a photo and the manifest belong. `shell`: a command line that has
    the call as `$OMFA`.
    """

    name: str
    words: tuple[str, ...]
    wanted: frozenset[int] = REFUSED
    make: Callable[[Path], None] | None = None
    convert: bool = False
    uid: int = 0
    environment: dict[str, str | None] = field(default_factory=dict)
    shell: str = ""


def make_world(folder: Path) -> None:
    """Write valid inputs of every kind, next to no size each."""
    quiet("data", "synthesize", "--out", f"{folder}/raw", "--train", "4", "--test", "3")
    quiet("data", "build", "--raw", f"{folder}/raw", "--out", f"{folder}/records")
    photo = next((folder / "raw/train/image").iterdir())
    shutil.copy(photo, folder / "photo.jpg")
    garment = next((folder / "raw/train/cloth").iterdir())
    shutil.copy(garment, folder / "garment.jpg")
    (folder / "pairs.txt").write_text("a.jpg b.jpg\n")
    (folder / "table.csv").write_text("params,samples,loss\n1e6,1e6,3\n2e6,1e6,2.9\n")
    (folder / "empty").mkdir()


def quiet(*words: str) -> None:
    """Run a command that must succeed, in a process of its own."""
    command = [sys.executable, "-m", "omfa_jax.cli.main", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=REPO)


def manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a change of the records' manifest."""

    def make(world: Path) -> None:
        path = world / "records/omfa_records.json"
        data = json.loads(path.read_text())
        found = change(data)
        path.write_text(found if isinstance(found, str) else json.dumps(data))

    return make


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return a preparation that writes a file."""

    def make(world: Path) -> None:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def make_png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def make_npz(shape: str) -> bytes:
    """Return an npz whose only array claims a shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("betas.npy", array)
    return out.getvalue()


def make_safetensors(length: int, header: bytes = b"{}") -> bytes:
    """Return a safetensors file whose header claims a length."""
    return struct.pack("<Q", length) + header


def damaged_model(data: bytes) -> Callable[[Path], None]:
    """Return a preparation of a model folder whose UNet's weights are `data`."""

    def make(world: Path) -> None:
        shutil.copytree(TINY, world / "m")
        weights = next((world / "m/unet").glob("*.safetensors"))
        weights.write_bytes(data)

    return make


SAMPLE = ("sample", "--checkpoint", TINY, "--steps", "1", "--out", "{o}/s")
GIVEN = ("--garment", "{w}/garment.jpg", "--person", "{w}/photo.jpg", "--null-pose")
LATENTS = ("data", "latents", "--model", TINY, "--config", TINY_CONFIG, "--out", "{o}/l")
TRAIN = ("train", "--config", TINY_CONFIG, "--workdir", "{o}/run")
PLAN = ("plan", "--config", TINY_CONFIG, "--topology", "h100-8")
SCALING = ("scaling", "plan", "--config", TINY_CONFIG, "--sizes", "tiny", "--out", "{o}/study")
EVAL = ("eval", "--pred", "{w}/raw/test/image", "--gt", "{w}/raw/test/image", "--out")
BUILD = ("data", "build", "--raw", "{w}/raw", "--out", "{o}/r")
NESTED = "[" * 100_000
DICTS = '{"a":' * 50_000
