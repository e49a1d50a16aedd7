"""SDXL in one file, as it is passed around: with or without VAE, prefixes and leftovers.

The names are the original format's or diffusers', in either case after any prefix. What belongs to
neither network is left out with a note if it is known, and is a mismatch if it is not.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.weights import file_contents, ldm_names, scheduler_statements
from omfa_jax.weights.foreign_files import is_safetensors, recognise_file
from omfa_jax.weights.tensor_files import format_names, read_json
from omfa_jax.weights.torch_tensors import LazyTensors, list_shards, open_safetensors

INDEX = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
# modules that wrap others while training: torch.compile, DistributedDataParallel, FSDP, activation
# checkpointing. Their names appear before or inside those of the network.
WRAPPERS = {
    *("_orig_mod", "module", "_forward_module"),
    *("_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
}
# the first word of a UNet's and a VAE's names, in the original format and in diffusers'
UNET_ROOTS = {
    "original": ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"),
    "diffusers": (
        *("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"),
        *("time_embedding", "add_embedding"),
    ),
}
VAE_ROOTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
UNET_START = {
    "original": re.compile(r"((?:[^.]+\.)*?)(?:input_blocks|middle_block|output_blocks)\.\d"),
    "diffusers": re.compile(r"((?:[^.]+\.)*?)(?:down|up)_blocks\.\d+\.(?:resnets|attentions)\."),
}
VAE_START = {
    "original": re.compile(r"((?:[^.]+\.)*?)(?:encoder|decoder)\.(?:down|up|mid)\."),
    "diffusers": re.compile(r"((?:[^.]+\.)*?)(?:encoder|decoder)\.(?:down|up|mid)_blocks?\."),
}
# beginnings of other networks with blocks of the same names
NOT_UNETS = re.compile(r"(^|\.)(encoder|decoder|control_model|controlnet|model_ema|vae)\.$")


@dataclass(frozen=True)
class Part:
    """Where one network is in a file: the beginning of its names, and whose names they are."""

    prefix: str
    form: str

    @property
    def is_original(self) -> bool:
        """Whether the names are the original format's, not diffusers'."""
        return self.form == "original"


@dataclass(frozen=True)
class SingleFile:
    """A file's tensors without wrappers in their names, and where its networks are, if it has any.

    `notes` says what was recognised; `constants` and `skipped` are the keys that belong to no
    network.
    """

    tensors: LazyTensors
    unet: Part | None
    vae: Part | None
    constants: set[str]
    notes: tuple[str, ...]

    @property
    def where(self) -> str:
        """The file's name in messages."""
        return self.tensors.where

    def list_unet_keys(self) -> set[str]:
        """Return the keys of the UNet, without unknown ones beside it."""
        return self._list_keys(self.unet, UNET_ROOTS[self.unet.form] if self.unet else ())

    def list_vae_keys(self) -> set[str]:
        """Return the keys of the VAE, without unknown ones beside it."""
        return self._list_keys(self.vae, VAE_ROOTS)

    def _list_keys(self, part: Part | None, roots: Iterable[str]) -> set[str]:
        if part is None:
            return set()
        if part.prefix:
            return {key for key in self.tensors.shapes if key.startswith(part.prefix)}
        return {key for key in self.tensors.shapes if key.split(".")[0] in roots}


def open_single_file(path: AnyPath, flag: str = "SRC") -> SingleFile:
    """Open a .safetensors file, or the index of one that is stored in shards.

    `flag` is the one that named the file. Raises OmfaError for other formats, for LoRAs and for
    quantised weights.
    """
    path = to_path(path)
    tensors = _open_tensors(path, flag)
    keys = tensors.shapes.keys()
    if not keys:
        raise OmfaError(f"{path} has no tensors; fetch or export it again")
    if file_contents.is_adapter(keys):
        raise file_contents.make_contents_error(keys, str(path), "UNet or VAE", f"change {flag}")
    file_contents.refuse_quantised(keys, str(path))
    tensors, removed = unwrap_names(tensors)
    unet = _find_part(tensors, UNET_START, ldm_names.UNET_PREFIX, NOT_UNETS)
    if unet is not None and unet.prefix not in ("", ldm_names.UNET_PREFIX):
        # the rest of a checkpoint inside another module has that module's name too
        outer = unet.prefix.removesuffix(ldm_names.UNET_PREFIX)
        if unet.prefix.endswith(ldm_names.UNET_PREFIX):
            tensors = tensors.rename_keys(lambda key: key.removeprefix(outer))
            unet = Part(ldm_names.UNET_PREFIX, unet.form)
        removed.append(f"the prefix {outer}")
    vae = _find_part(tensors, VAE_START, ldm_names.VAE_PREFIX, None)
    if unet is None and vae is not None and vae.prefix not in ("", ldm_names.VAE_PREFIX):
        removed.append(f"the prefix {vae.prefix}")
    notes = describe_removed(removed)
    if unet is not None and unet.form == "diffusers":
        notes.append("its UNet has diffusers' names")
    constants = {key for key in tensors.shapes if scheduler_statements.is_constant(key)}
    return SingleFile(tensors, unet, vae, constants, tuple(notes))


def _open_tensors(path: AnyPath, flag: str) -> LazyTensors:
    if INDEX.fullmatch(path.name):
        return open_safetensors(list_shards(path), str(path))
    shard = SHARD.fullmatch(path.name)
    if shard is not None and int(shard[2]) > 1:
        index = path.with_name(f"{shard[1]}.safetensors.index.json")
        has = f"give {index}" if index.is_file() else f"fetch {index.name} too and give it"
        raise OmfaError(f"{path} is one of {int(shard[2])} shards of a model: {has}")
    if path.suffix != ".safetensors" and not is_safetensors(path):
        what, advice = recognise_file(path) or (
            "its format is unknown",
            "pickled checkpoints can run code: convert it to safetensors first",
        )
        raise OmfaError(
            f"{path}: expected a .safetensors file or a diffusers folder, and {what}; {advice}"
        )
    return open_safetensors([path], str(path))


def unwrap_names(tensors: LazyTensors) -> tuple[LazyTensors, list[str]]:
    """Return the tensors without wrappers in their names, and which were removed."""
    found = collections.Counter(
        word for key in tensors.shapes for word in key.split(".") if word in WRAPPERS
    )
    if not found:
        return tensors, []

    def unwrap(key: str) -> str:
        return ".".join(word for word in key.split(".") if word not in WRAPPERS)

    return tensors.rename_keys(unwrap), [
        f"{word}. ({found[word]} tensors)" for word in sorted(found)
    ]


def describe_removed(removed: Sequence[str]) -> list[str]:
    """Return the note on what was removed from a file's names, if anything was."""
    return [f"removed {' and '.join(removed)} from its names"] if removed else []


def unwrap_component(
    tensors: LazyTensors, starts: dict[str, re.Pattern]
) -> tuple[LazyTensors, list[str]]:
    """Return one network's tensors without wrappers and prefix, and a note if there were any.

    `starts` is UNET_START or VAE_START; the names are diffusers'.
    """
    tensors, removed = unwrap_names(tensors)
    part = _find_part(tensors, {"diffusers": starts["diffusers"]}, "", None)
    prefix = "" if part is None else part.prefix
    if prefix:
        tensors = tensors.rename_keys(lambda key: key.removeprefix(prefix))
        removed.append(f"the prefix {prefix}")
    return tensors, describe_removed(removed)


def _find_part(
    tensors: LazyTensors, starts: dict[str, re.Pattern], usual: str, others: re.Pattern | None
) -> Part | None:
    """Return where a network is; the usual prefix if it is there, else the one with most names."""
    found: collections.Counter[Part] = collections.Counter()
    for form, pattern in starts.items():
        matches = [match for key in tensors.shapes if (match := pattern.match(key))]
        found.update(Part(match[1], form) for match in matches)
    for part in list(found):
        hints = (f"{part.prefix}input_hint_block.", f"{part.prefix}controlnet_")
        is_control = any(key.startswith(hints) for key in tensors.shapes)
        if is_control or (others is not None and others.search(part.prefix)):
            del found[part]
    for part in found:
        if usual and part.prefix.endswith(usual):
            return part
    return found.most_common(1)[0][0] if found else None


def find_file_in(folder: AnyPath) -> AnyPath:
    """Return the checkpoint to read in a folder that is not diffusers'; OmfaError without one."""
    indices = sorted(path for path in folder.glob("*.json") if INDEX.fullmatch(path.name))
    if len(indices) == 1:
        return indices[0]
    if (folder / "config.json").is_file():
        name = read_json(folder / "config.json").get("_class_name")
        if name == "UNet2DConditionModel":
            raise OmfaError(
                f"{folder} is the folder of a UNet alone: give the folder above it, with unet in"
                " it, and the VAE with --vae if there is no vae beside it"
            )
    files = [path.name for path in sorted(folder.glob("*.safetensors"))]
    found = f"; of its files {format_names(files)}, give the checkpoint itself" if files else ""
    raise OmfaError(
        f"{folder} has no folder unet: give a diffusers folder or SDXL's original .safetensors"
        f" file{found}"
    )
