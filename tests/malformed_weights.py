"""Ways in which weight files come that are not what they should be, and the words they must get.

Each way writes one file (or changes a sound one) with a seeded generator.
"""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]
UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
LAST, WIDE = f"{UNET}out.2.bias", f"{UNET}out.2.weight"


def write_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def keep_start(rng: np.random.Generator, share: tuple[float, float]) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * rng.uniform(*share))])

    return cut


def edit_header(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change a file's header and leave its data."""

    def edit(path: Path) -> None:
        whole = path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])

    return edit


def edit_tensors(change: Callable[[Tensors], object]) -> Callable[[Tensors], Tensors]:
    def edit(tensors: Tensors) -> Tensors:
        changed = dict(tensors)
        result = change(changed)
        return result if isinstance(result, dict) else changed

    return edit


def make_zip(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sdxl.safetensors"))
    return buffer.getvalue()


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return edit_tensors(lambda t: {key.replace(old, new): tensor for key, tensor in t.items()})


def swapped(first: str, second: str) -> Callable[[Tensors], Tensors]:
    def swap(tensors: Tensors) -> None:
        tensors[first], tensors[second] = tensors[second], tensors[first]

    return edit_tensors(swap)


def only(*starts: str) -> Callable[[Tensors], Tensors]:
    return edit_tensors(lambda t: {k: v for k, v in t.items() if k.startswith(starts)})


def replaced(**tensors: np.ndarray) -> Callable[[Tensors], Tensors]:
    return lambda _: dict(tensors)


def make_byte_ways(rng: np.random.Generator) -> dict[str, tuple[Callable[[Path], None], str]]:
    """Ways that change a file's bytes: (what is done, a pattern of what must be said)."""
    huge = (2**62).to_bytes(8, "little")
    return {
        "empty": (write_bytes(b""), "it is empty"),
        "header cut": (keep_start(rng, (0.0001, 0.005)), "it has .* bytes, its header alone"),
        "data cut": (keep_start(rng, (0.3, 0.99)), "it has .* of .* bytes"),
        "bytes appended": (lambda p: p.write_bytes(p.read_bytes() + rng.bytes(9)), "it has .* of"),
        "noise": (write_bytes(b"\0" * 3 + rng.bytes(400)), "not a complete safetensors file"),
        "zeros": (write_bytes(bytes(500)), "not a complete safetensors file"),
        "huge header": (write_bytes(huge + b"{}"), "not a complete safetensors file"),
        "header a list": (write_bytes(b"\x02" + bytes(7) + b"[]"), "not a complete safetensors"),
        "header nested": (
            write_bytes((60_006).to_bytes(8, "little") + b'{"a":' + b"[" * 60_000 + b"}"),
            "not a complete safetensors file",
        ),
        "header not UTF-8": (write_bytes(b"\x04" + bytes(7) + b'{"\xff}'), "not a complete"),
        "text": (write_bytes(b"see the other repository\n"), "it is a text"),
        "JSON": (write_bytes(b'{"error": "Access denied"}'), "it is a JSON text"),
        "web page": (write_bytes(b"<!DOCTYPE html><title>Sign in</title>"), "it is a web page"),
        "LFS pointer": (
            write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "a Git LFS pointer.; fetch the file itself with `git lfs pull`",
        ),
        "GGUF": (
            write_bytes(b"GGUF\x03\0\0\0" + rng.bytes(90)),
            "a GGUF file of quantised weights",
        ),
        "zip": (write_bytes(make_zip({"sdxl.safetensors": b"x"})), "it is a zip archive.; unpack"),
        "torch.save": (write_bytes(make_zip({"sdxl/data.pkl": b"x"})), "a file of torch.save"),
        "pickle": (write_bytes(pickle.dumps({"a": 1})), "it is a pickled file"),
        "tar": (write_bytes(make_tar()), "it is an archive.; unpack"),
        "gzip": (write_bytes(b"\x1f\x8b\x08" + rng.bytes(90)), "it is an archive"),
        "image": (write_bytes(b"\x89PNG\r\n\x1a\n" + rng.bytes(90)), "it is an image"),
        "npy": (write_bytes(b"\x93NUMPY\x01\0" + rng.bytes(90)), "array file of another format"),
        "unknown dtype": (
            edit_header(lambda h: h[FIRST].update(dtype="F12")),
            "not a complete safetensors file",
        ),
        "wrong offsets": (
            edit_header(lambda h: h[FIRST].update(data_offsets=[9, 4])),
            "not a complete safetensors file",
        ),
        "wrong shape": (
            edit_header(lambda h: h[FIRST].update(shape=[1, 2])),
            "not a complete safetensors file",
        ),
        "negative shape": (
            edit_header(lambda h: h[FIRST].update(shape=[-1])),
            "not a complete safetensors file",
        ),
    }


def make_tensor_ways(
    rng: np.random.Generator,
) -> dict[str, tuple[Callable[[Tensors], Tensors], str]]:
    """Ways that change a file's tensors: (what is done, a pattern of what must be said)."""
    low = rng.standard_normal((2, 4)).astype(np.float32)
    zeros = np.zeros(4, np.float32)

    def spoil(tensors: Tensors) -> None:
        tensors[LAST] = tensors[LAST].copy()
        tensors[LAST][rng.integers(4)] = np.nan

    return {
        "no tensors": (replaced(), "has no tensors"),
        "NaN": (edit_tensors(spoil), rf"! {LAST}"),
        "integers": (edit_tensors(lambda t: t.update({LAST: zeros.astype(np.int8)})), "is I8"),
        "booleans": (edit_tensors(lambda t: t.update({LAST: zeros > 0})), "is BOOL"),
        "complex": (edit_tensors(lambda t: t.update({LAST: zeros.astype(np.complex64)})), "is C64"),
        "a tensor lost": (edit_tensors(lambda t: t.pop(LAST)), rf"- {LAST}"),
        "a tensor added": (edit_tensors(lambda t: t.update({"a\nb": zeros})), r"\+ a\?b"),
        "a name changed": (renamed("out.2", "out.3"), rf"- {UNET}out.2.bias"),
        "all names changed": (renamed("model.", "net_"), "VAE|UNet"),
        "two swapped": (swapped(FIRST, LAST), rf"~ {FIRST} is \(4,\)"),
        "transposed": (edit_tensors(lambda t: t.update({WIDE: t[WIDE].T.copy()})), "misshapen"),
        "a scalar": (edit_tensors(lambda t: t.update({FIRST: np.float32(1)})), "misshapen"),
        "no elements": (
            edit_tensors(lambda t: t.update({FIRST: t[FIRST][:, :0]})),
            rf"not those of SDXL .{FIRST} without elements.;",
        ),
        "odd width": (
            edit_tensors(
                lambda t: t.update(
                    {f"{UNET}input_blocks.1.0.out_layers.3.weight": np.zeros((33, 8, 3, 3), "f4")}
                )
            ),
            "are not those of SDXL",
        ),
        "Stable Diffusion 1": (renamed("label_emb", "lost_emb"), "Stable Diffusion 1 or 2"),
        "no VAE": (only(UNET), "has a UNet but no VAE: give one with --vae"),
        "no UNet": (only("first_stage_model."), "has no UNet: it is a VAE"),
        "LoRA": (
            replaced(**{"lora_unet_a.lora_down.weight": low, "lora_unet_a.lora_up.weight": low.T}),
            "it is a LoRA with kohya's names; give the base model as SRC and merge .* --lora",
        ),
        "LoHa": (replaced(**{"lora_unet_a.hada_w1_a": low}), "it is an adapter other than a plain"),
        "ControlNet": (
            renamed(f"{UNET}out.", f"{UNET}input_hint_block."),
            "has no UNet: it is a ControlNet",
        ),
        "text encoder": (replaced(**{"text_model.encoder.x": low}), "it is text encoders"),
        "Flux": (replaced(**{"double_blocks.0.img_mlp.0.weight": low}), "it is Flux or"),
        "embedding": (replaced(emb_params=low), "it is a textual inversion"),
        "quantised": (
            edit_tensors(lambda t: t.update({f"{LAST}.absmax": zeros})),
            "is quantised .bitsandbytes; 1 tensors",
        ),
        "unknown": (replaced(a=low, b=low), "has no UNet .its names begin with a, b.; give"),
    }


def write_contiguous(path: Path, tensors: Tensors) -> None:
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, path)
