"""Feature extractors for single images: Inception (FID, KID), CLIP (CLIP-FID, CLIP-I), DINO."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.evals.image_preparation import (
    resize_and_center_crop,
    resize_bicubic_float,
    resize_with_filter,
)
from omfa_jax.evals.metric_weights import (
    FoundWeights,
    MetricWeights,
    read_state,
    require_library,
    require_torchvision,
)

Extract = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, " d"]]

INCEPTION_PX = 299
INCEPTION_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
# of the pixels that the networks were trained on, as published with CLIP and torchvision
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_inception(networks: MetricWeights, options: dict[str, Any], device: str) -> Extract:
    """Return an extractor of the 2048 features of TensorFlow's 2015 Inception (torch-fidelity).

    The option `resize` is "clean" for clean-fid's (Pillow bicubic on floats) or "pytorch" for
    pytorch-fid's (bilinear without antialiasing); `input` maps 0..255 to the network's range.
    Raises MetricUnavailableError if the package or the weights are missing.
    """
    require_library("torch_fidelity")
    require_torchvision()
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    found = networks.find("inception")
    # the package would unpickle the file, which can run code; this check refuses that
    read_state(found.path)
    try:
        model = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=str(found.path)
        )
    except RuntimeError as error:
        raise _make_architecture_error(found, "the FID Inception network", error) from None
    # the package's forward resizes to 299 px itself, in its own way
    layers = torch.nn.Sequential(*(getattr(model, name) for name in INCEPTION_LAYERS))
    layers = layers.eval().requires_grad_(False).to(device)

    def extract(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " d"]:
        if options["resize"] == "clean":
            pixels = _channels_first(resize_bicubic_float(image, INCEPTION_PX), device)
        else:
            unit = _channels_first(image.astype(np.float32) / 255, device)
            pixels = 255 * torch.nn.functional.interpolate(
                unit, (INCEPTION_PX, INCEPTION_PX), mode="bilinear", align_corners=False
            )
        shift, scale = (128, 128) if options["input"] == "(x-128)/128" else (127.5, 127.5)
        with torch.inference_mode():
            return layers((pixels - shift) / scale).flatten().float().cpu().numpy()

    return extract


def load_clip(networks: MetricWeights, options: dict[str, Any], device: str) -> Extract:
    """Return an extractor of CLIP's image embedding before normalisation (transformers)."""
    require_library("transformers")
    found = networks.find(options["model"])
    model = _load_pretrained(found, "CLIPVisionModelWithProjection", "clip", device)
    side_px = model.config.image_size

    def extract(image: UInt8[np.ndarray, "h w 3"]) -> Any:
        return _run(
            model, resize_and_center_crop(image, side_px), CLIP_MEAN, CLIP_STD, device
        ).image_embeds

    return _as_numpy(extract)


def load_dino(networks: MetricWeights, options: dict[str, Any], device: str) -> Extract:
    """Return an extractor of DINO's last CLS feature (transformers)."""
    require_library("transformers")
    found = networks.find(options["model"])
    # the pooling layer of the class is not used: the feature is the CLS token's
    model = _load_pretrained(found, "ViTModel", "vit", device, add_pooling_layer=False)
    side_px = model.config.image_size

    def extract(image: UInt8[np.ndarray, "h w 3"]) -> Any:
        square = resize_with_filter(image, (side_px, side_px), "bilinear")
        made = _run(model, square, IMAGENET_MEAN, IMAGENET_STD, device)
        return made.last_hidden_state[:, 0]

    return _as_numpy(extract)


def cosine_similarity(one: Float[np.ndarray, " d"], other: Float[np.ndarray, " d"]) -> float:
    """Return the cosine similarity (-1 to 1) of two vectors; OmfaError for a zero vector."""
    # float64: the similarities of good images differ in the third decimal
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if not lengths:
        raise OmfaError("a feature vector is all zeros: check the weights in --metric-weights")
    return float(one @ other) / lengths


def _load_pretrained(found: FoundWeights, name: str, kind: str, device: str, **options: Any) -> Any:
    # before transformers is imported, which reads it once
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if importlib.util.find_spec("torchvision"):
        # transformers imports torchvision if it is installed, and fails on a mismatched build
        require_torchvision()
    import transformers

    try:
        config = parse_json((found.path / "config.json").read_text())
        came = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise OmfaError(f"{found.path}/config.json: not a readable model config: {error}") from None
    if came != kind and came != f"{kind}_vision_model":
        raise OmfaError(f"{found.path}: expected a model of type {kind}, found {came!r}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, loading = getattr(transformers, name).from_pretrained(
            found.path, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # safetensors, pickles and shapes raise different errors
        raise _make_architecture_error(found, name, error) from None
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise OmfaError(f"{found.weights}: not the weights of {name}: {first} is missing")
    # files may hold half precision
    return model.float().eval().requires_grad_(False).to(device)


def _run(
    model: Any,
    image: UInt8[np.ndarray, "h w 3"],
    mean: Sequence[float],
    std: Sequence[float],
    device: str,
) -> Any:
    import torch

    unit = (image.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    with torch.inference_mode():
        return model(pixel_values=_channels_first(unit, device))


def _as_numpy(extract: Callable[[Any], Any]) -> Extract:
    return lambda image: extract(image).flatten().float().cpu().numpy()


def _channels_first(image: Float32[np.ndarray, "h w 3"], device: str) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None])).to(device)


def _make_architecture_error(found: FoundWeights, what: str, error: Exception) -> OmfaError:
    reason = " ".join(str(error).split())[:160]
    return OmfaError(f"{found.weights}: not the weights of {what}: {reason}")
