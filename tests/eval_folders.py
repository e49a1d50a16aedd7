"""Folders of small pictures to score, and small random networks to score them with."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

HEIGHT, WIDTH = 96, 72


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth coloured picture with some structure, uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    fine = random.normal(0, 6, (height, width, 3))
    return np.clip(np.array(smooth) + fine, 0, 255).astype(np.uint8)


def worse(image: np.ndarray, kind: str, step: int, seed: int = 0) -> np.ndarray:
    """The picture blurred, noised or shifted; `step` 0 is the picture itself."""
    if step == 0:
        return image
    if kind == "blur":
        return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.8 * step)))
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, 12 * step, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.roll(image, 2 * step, axis=1)


def folder(path: Path, pictures: dict[str, np.ndarray]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        Image.fromarray(image).save(path / name)
    return path


def pair_of_folders(root: Path, count: int = 5, step: int = 1) -> tuple[Path, Path]:
    truths = {f"{index:03}.png": picture(index) for index in range(count)}
    preds = {
        name: worse(image, "noise", step, index)
        for index, (name, image) in enumerate(truths.items())
    }
    return folder(root / "pred", preds), folder(root / "gt", truths)


def write_clip(path: Path) -> Path:
    """A tiny random CLIP in transformers' form."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **sizes,
            **heads,
            "vocab_size": 64,
            "max_position_embeddings": 8,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**sizes, **heads, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    transformers.CLIPModel(config).save_pretrained(path)
    return path


def write_vit(path: Path) -> Path:
    """A tiny random ViT in transformers' form."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    transformers.ViTModel(config).save_pretrained(path)
    return path


def write_trunk(folder: Path, net: str) -> Path:
    """A random trunk of LPIPS or DISTS (no classifier) under torchvision's names."""
    import torch
    from torchvision import models

    from omfa_jax.evals.metric_weights import SOURCES

    torch.manual_seed(0)
    if net == "vgg":
        state = models.vgg.make_layers(models.vgg.cfgs["D"]).state_dict()
        state = {f"features.{name}": value for name, value in state.items()}
    else:
        build = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}[net]
        state = build(weights=None).state_dict()
        state = {name: value for name, value in state.items() if name.startswith("features")}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / SOURCES[net].names[0])
    return folder


def write_inception(folder: Path):
    """A random FID Inception: its weights in the folder, and clean-fid's network with them.

    clean-fid's is pytorch-fid's code; it takes the resized picture in the network's range.
    """
    import pytest
    import torch
    from cleanfid import inception_pytorch

    from omfa_jax.evals.metric_weights import SOURCES

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        with warnings.catch_warnings(action="ignore"):  # torchvision's about clean-fid's arguments
            net = inception_pytorch.fid_inception_v3()
    for module in net.modules():  # else the features of a random network are near nothing
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), folder / SOURCES["inception"].names[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_pytorch, "fid_inception_v3", lambda: net)
        model = inception_pytorch.InceptionV3(resize_input=False, normalize_input=False)
    return model.eval()
