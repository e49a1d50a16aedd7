"""Comparison of our networks with diffusers' on the same random inputs, by component.

The reference is diffusers' network in float64. Its float32 output is not accurate enough for a
tolerance of 5e-6: on some CPUs oneDNN's convolutions leave SDXL's decoder 1e-5 off, twice as far as
XLA's.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.paths import AnyPath, local_copy_of_folder, to_path
from omfa_jax.models import UNetConfig, VAEConfig, apply_unet, decode, encode_posterior
from omfa_jax.weights import tensor_names
from omfa_jax.weights.conv_in import Groups, format_groups, infer_source_inputs
from omfa_jax.weights.diffusers_folder import LoadedModel
from omfa_jax.weights.imported_folder import is_imported, load_weights
from omfa_jax.weights.model_description import ModelDescription, read_description
from omfa_jax.weights.network_source import describe_float8
from omfa_jax.weights.torch_sources import open_diffusers_unet, open_diffusers_vae
from omfa_jax.weights.torch_tensors import find_model_files

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """The error of one component's float32 output against diffusers' in float64.

    `relative_l2` is the norm of the difference over the norm of diffusers' output. `torch_float32`
    is the same for diffusers' own float32 output on this machine: the rounding error of PyTorch
    alone.
    """

    component: str
    max_abs: float
    relative_l2: float
    torch_float32: float


def compare_with_torch(
    ours: LoadedModel | AnyPath, theirs: AnyPath, *, seed: int = 0
) -> list[Difference]:
    """Return the differences of UNet, VAE encoder and VAE decoder on random inputs.

    `ours` is a model or a model folder of either format, run by JAX in float32; `theirs` is a
    diffusers folder, run by PyTorch in float64 and float32. Two folders may be given in either
    order. Channels are matched by meaning. Inputs that only the UNet of `ours` has are random too,
    so the outputs agree only if the weights of those channels are zero. Raises OmfaError for
    networks of different sizes and for files that do not match them.
    """
    if not isinstance(ours, LoadedModel):
        if is_imported(theirs):
            ours, theirs = theirs, ours
        ours = load_weights(ours)
    if is_imported(theirs):
        raise OmfaError(f"{theirs} has no PyTorch weights; compare with a diffusers folder")
    described = require_comparable(ours, to_path(theirs))
    inputs = _make_inputs(ours.unet_config, ours.vae_config, seed)
    x, x_theirs = make_unet_inputs(ours, described, seed)
    reference, rounded = _run_theirs(to_path(theirs), {**inputs, "x": x_theirs})
    came = _run_ours(ours, {**inputs, "x": x})
    return [
        _compute_difference(name, came[name], reference[name], rounded[name]) for name in reference
    ]


def require_comparable(ours: LoadedModel, theirs: AnyPath) -> ModelDescription:
    """Return the description of `theirs`; OmfaError if sizes differ or files do not match."""
    described = read_description(theirs)
    pairs = {
        "unet": (dataclasses.replace(ours.unet_config, in_channels=0), described.unet_config),
        "vae": (ours.vae_config, described.vae_config),
    }
    different = []
    for name, (a, b) in pairs.items():
        for field in dataclasses.fields(a):
            here, there = getattr(a, field.name), getattr(b, field.name)
            if here != there and field.name not in ("in_channels", "force_upcast"):
                different.append(f"{name}.{field.name} {here} and {there}")
    if different:
        raise OmfaError(f"{theirs} is not the same network: {'; '.join(different)}")
    components = (
        open_diffusers_unet(described.unet_config, theirs / "unet"),
        open_diffusers_vae(described.vae_config, theirs / "vae"),
    )
    for component in components:
        describe_float8(component.tensors, set(component.tensors.shapes), allow_fp8=False)
    tensor_names.raise_mismatches([tensor_names.match_keys(component) for component in components])
    return described


def make_unet_inputs(
    ours: LoadedModel, theirs: ModelDescription, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return our and their UNet inputs (2, h, w, c); channels of equal meaning are equal."""
    unet = ours.unet_config
    rng = np.random.default_rng([seed, 1])
    size = (2, 6 * unet.stride, 4 * unet.stride)
    width, latents = theirs.unet_config.in_channels, theirs.vae_config.latent_channels
    known = infer_source_inputs(width, latents, theirs.omfa)
    if ours.inputs is None or known is None:
        # the channels have no known meaning: match them by position
        if width > unet.in_channels:
            raise OmfaError(
                f"its UNet takes {width} channels, ours takes {unet.in_channels}; give a"
                " model with the same inputs"
            )
        x = rng.standard_normal((*size, unet.in_channels), np.float32)
        return x, x[..., :width]
    parts = {name: rng.standard_normal((*size, n), np.float32) for name, n in ours.inputs.groups}
    absent = [name for name, n in known.groups if name not in parts or n != parts[name].shape[-1]]
    if absent:
        raise OmfaError(
            f"its UNet takes {format_groups(known.groups)} ({known.rule}), ours takes"
            f" {format_groups(ours.inputs.groups)} ({ours.inputs.rule}): {', '.join(absent)}"
            " cannot be compared"
        )

    def canvas(groups: Groups) -> np.ndarray:
        return np.concatenate([parts[name] for name, _ in groups], axis=-1)

    return canvas(ours.inputs.groups), canvas(known.groups)


def _make_inputs(unet: UNetConfig, vae: VAEConfig, seed: int) -> Outputs:
    # taller than wide, so that swapped axes change the result
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return {
        # near both ends of the schedule
        "t": np.array([21, 981], np.int32),
        "context": normal(2, 8, unet.context_dim),
        "pooled": normal(2, unet.pooled_dim),
        "time_ids": np.array(
            [[1024, 768, 0, 0, 1024, 768], [640, 480, 8, 16, 512, 384]], np.float32
        ),
        "images": rng.uniform(-1, 1, (1, 6 * vae.stride, 4 * vae.stride, 3)).astype(np.float32),
        "latents": normal(1, 6, 4, vae.latent_channels),
    }


def _run_ours(model: LoadedModel, inputs: Outputs) -> Outputs:
    order = ("x", "t", "context", "pooled", "time_ids")
    unet, vae = model.unet_config, model.vae_config
    # by default GPUs and TPUs multiply float32 in TF32 or bfloat16
    with jax.default_matmul_precision("highest"):
        predicted = jax.jit(apply_unet, static_argnums=0)(
            unet, model.unet_params, *(inputs[name] for name in order)
        )
        mean, logvar = jax.jit(encode_posterior, static_argnums=0)(
            vae, model.vae_params, inputs["images"]
        )
        images = jax.jit(decode, static_argnums=0)(vae, model.vae_params, inputs["latents"])
    moments = jnp.concatenate([mean, logvar], axis=-1)
    return {
        "unet": np.asarray(predicted),
        "vae encoder": np.asarray(moments),
        "vae decoder": np.asarray(images),
    }


def _run_theirs(folder: AnyPath, inputs: Outputs) -> tuple[Outputs, Outputs]:
    """Return diffusers' outputs in float64 and in float32."""
    require_modules("comparing with PyTorch", "torch", "torch", "diffusers")
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    for name in ("x", "images", "latents"):
        tensors[name] = tensors[name].permute(0, 3, 1, 2).contiguous()
    exact, rounded = {}, {}
    with torch.no_grad():
        for kind, part, run in (
            ("UNet2DConditionModel", "unet", _run_torch_unet),
            ("AutoencoderKL", "vae", _run_torch_vae),
        ):
            # float32 first: the hooks that widen the layers stay on the model
            model = _load_torch(kind, folder / part)
            rounded |= run(model, tensors)
            wide = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
            exact |= run(_widen_to_float64(model), wide)
    return exact, rounded


def _load_torch(kind: str, folder: AnyPath) -> Any:
    import diffusers
    import torch

    files = find_model_files(folder)
    names = [path.name for path in files.paths]
    with local_copy_of_folder(folder, "*.json", *names) as local:
        model = getattr(diffusers, kind).from_pretrained(
            local,
            variant=files.variant or None,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    return model.eval()


def _widen_to_float64(model: Any) -> Any:
    """Make each layer of a torch model compute in float64, widening one layer at a time.

    All of SDXL in float64 would take 20 GB.
    """

    def widen(layer: Any, _: Any) -> None:
        layer.double()

    def narrow(layer: Any, *_: Any) -> None:
        layer.float()

    for module in model.modules():
        if not any(module.children()):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)
    return model


def _run_torch_unet(unet: Any, inputs: dict[str, Any]) -> Outputs:
    added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]}
    out = unet(inputs["x"], inputs["t"], inputs["context"], added_cond_kwargs=added)
    return {"unet": _to_nhwc(out.sample)}


def _run_torch_vae(vae: Any, inputs: dict[str, Any]) -> Outputs:
    latents = vae.encode(inputs["images"]).latent_dist
    images = vae.decode(inputs["latents"] / vae.config.scaling_factor).sample
    moments = np.concatenate([_to_nhwc(latents.mean), _to_nhwc(latents.logvar)], axis=-1)
    return {"vae encoder": moments, "vae decoder": _to_nhwc(images)}


def _to_nhwc(tensor: Any) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 1)


def _compute_difference(
    name: str, came: np.ndarray, reference: np.ndarray, rounded: np.ndarray
) -> Difference:
    if came.shape != reference.shape:
        raise OmfaError(
            f"{name}: output of shape {came.shape} here, {reference.shape} in diffusers; the"
            " configs describe different networks"
        )
    gap, norm = came - reference, np.linalg.norm(reference)
    relative, theirs = (float(np.linalg.norm(g) / norm) for g in (gap, rounded - reference))
    return Difference(name, float(np.abs(gap).max()), relative, theirs)
