"""Networks' measures against the packages that define them, on random weights from local files."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from eval_folders import picture, worse, write_clip, write_inception, write_vit
from torchvision_shim import import_torchvision

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.metric_weights import SOURCES, MetricUnavailableError, MetricWeights
from omfa_jax.evals.metrics.feature_extractors import (
    cosine_similarity,
    load_clip,
    load_dino,
    load_inception,
)
from omfa_jax.evals.metrics.perceptual_metrics import load_dists, load_lpips
from omfa_jax.evals.protocol_spec import load_protocol

import_torchvision()

TRY_OFF = load_protocol("omfa").get_metrics("try_off")
UNPAIRED = load_protocol("omfa").get_metrics("unpaired")
IMAGE, TRUTH = worse(picture(0), "noise", 2), picture(0)


@pytest.fixture(autouse=True)
def no_internet_and_no_cache(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hf"))


def unit(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255


def vgg_features(monkeypatch) -> None:
    """Let the packages build a VGG16 without its classifier and without a download."""
    from torchvision import models

    def build(**_):
        return SimpleNamespace(features=models.vgg.make_layers(models.vgg.cfgs["D"]))

    monkeypatch.setattr(models, "vgg16", build)


def torchvision_names(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {
        f"features.{name.split('.', 1)[1]}": value
        for name, value in module.state_dict().items()
        if name.startswith(prefix) and not name.endswith("filter")
    }


@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:.*weight.*:UserWarning")
@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_is_its_package(net, tmp_path, monkeypatch):
    import lpips

    vgg_features(monkeypatch)
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    file = tmp_path / SOURCES[net].names[0]
    torch.save(torchvision_names(theirs.net, "slice"), file)
    networks = MetricWeights(tmp_path, skip_checksum=True)
    ours = load_lpips(networks, {"net": net, "range": "-1..1"}, "cpu")
    with torch.no_grad():
        expected = float(theirs(unit(IMAGE), unit(TRUTH), normalize=True))
        unscaled = float(theirs(unit(IMAGE), unit(TRUTH)))
    assert ours(IMAGE, TRUTH) == pytest.approx(expected, rel=1e-6)
    assert abs(unscaled - expected) > 1e-3 * expected, "the range makes no difference"
    assert ours(TRUTH, TRUTH) == 0
    assert set(networks.used) == {net, f"lpips {net}"}


def test_dists_is_its_package(tmp_path, monkeypatch):
    from DISTS_pytorch import DISTS_pt

    vgg_features(monkeypatch)
    torch.manual_seed(0)
    theirs = DISTS_pt.DISTS(load_weights=False)
    mixture = torch.load(Path(DISTS_pt.__file__).parent / "weights.pt", weights_only=True)
    theirs.alpha.data, theirs.beta.data = mixture["alpha"], mixture["beta"]
    torch.save(torchvision_names(theirs, "stage"), tmp_path / SOURCES["vgg"].names[0])
    ours = load_dists(MetricWeights(tmp_path, skip_checksum=True), {}, "cpu")
    expected = float(theirs(unit(IMAGE), unit(TRUTH)).detach())
    assert expected > 1e-3
    assert ours(IMAGE, TRUTH) == pytest.approx(expected, abs=1e-6)
    assert ours(TRUTH, TRUTH) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A random FID Inception of clean-fid (pytorch-fid's code), and its weights in a folder."""
    folder = tmp_path_factory.mktemp("inception")
    return folder, write_inception(folder)


def test_inception_features_are_clean_fids_and_torch_fidelitys(inception):
    from cleanfid.resize import build_resizer
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder, net = inception
    networks = MetricWeights(folder, skip_checksum=True)
    ours = load_inception(networks, TRY_OFF["fid"].options, "cpu")
    squeezed = torch.from_numpy(build_resizer("clean")(IMAGE)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = net((squeezed - 128) / 128)[0].flatten().numpy()
    found = ours(IMAGE)
    assert found.shape == (2048,) and np.ptp(expected) > 0
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    # torch-fidelity resizes inside; at 299 px that is nothing, and both must agree
    full = picture(3, 299, 299)
    file = networks.find("inception").path
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))
    (expected,) = theirs(torch.from_numpy(full).permute(2, 0, 1)[None])
    found = ours(full)
    assert np.linalg.norm(found - expected[0].numpy()) <= 1e-5 * np.linalg.norm(found)


def test_pytorch_fids_features_are_another_resize_and_range(inception):
    folder, net = inception
    options = load_protocol("temu").get_metrics("try_off")["fid"].options
    ours = load_inception(MetricWeights(folder, skip_checksum=True), options, "cpu")
    squeezed = torch.nn.functional.interpolate(
        unit(IMAGE), (299, 299), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        expected = net(2 * squeezed - 1)[0].flatten().numpy()
    found = ours(IMAGE)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    clean = load_inception(MetricWeights(folder, skip_checksum=True), TRY_OFF["fid"].options, "cpu")
    assert np.linalg.norm(clean(IMAGE) - found) > 1e-3 * np.linalg.norm(found)


def test_clip_and_dino_are_transformers(tmp_path):
    import transformers

    write_clip(tmp_path / "clip-vit-base-patch32")
    write_vit(tmp_path / "dino-vits16")
    networks = MetricWeights(tmp_path)
    square = picture(5, 64, 64)
    clip = load_clip(networks, UNPAIRED["clip_i"].options, "cpu")
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    model = transformers.CLIPModel.from_pretrained(tmp_path / "clip-vit-base-patch32").eval()
    with torch.no_grad():
        pixels = processor(square, return_tensors="pt")["pixel_values"]
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    assert cosine_similarity(clip(square), expected[0].numpy()) == pytest.approx(1, abs=1e-4)
    dino = load_dino(networks, UNPAIRED["dino"].options, "cpu")
    vit = transformers.ViTModel.from_pretrained(tmp_path / "dino-vits16").eval()
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    with torch.no_grad():
        made = vit(**processor(square, return_tensors="pt")).last_hidden_state[:, 0]
    assert cosine_similarity(dino(square), made[0].numpy()) == pytest.approx(1, abs=1e-4)
    assert cosine_similarity(clip(square), clip(picture(6, 64, 64))) < 0.9999


LOADERS = {
    "lpips": (load_lpips, "alexnet-owt-7be5be79.pth"),
    "dists": (load_dists, "vgg16-397923af.pth"),
    "fid": (load_inception, "pt_inception-2015-12-05-6726825d.pth"),
    "clip_fid": (load_clip, "clip-vit-base-patch32"),
}


@pytest.mark.parametrize("key", LOADERS)
def test_absent_weights_are_named_with_their_origin(key, tmp_path):
    loader, name = LOADERS[key]
    with pytest.raises(MetricUnavailableError, match=name) as caught:
        loader(MetricWeights(tmp_path), TRY_OFF[key].options, "cpu")
    assert "from " in str(caught.value) and "--metric-weights" in str(caught.value)


@pytest.mark.parametrize("key", ["lpips", "dists", "fid"])
def test_unreadable_or_foreign_weights_are_one_line(key, tmp_path):
    loader, name = LOADERS[key]
    file = tmp_path / name
    file.write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(OmfaError, match="SHA-256"):
        loader(MetricWeights(tmp_path), TRY_OFF[key].options, "cpu")
    for content in (None, {"a": torch.zeros(3)}, {"a": "text"}):
        if content:
            torch.save(content, file)
        with pytest.raises(OmfaError, match=name) as caught:
            loader(MetricWeights(tmp_path, skip_checksum=True), TRY_OFF[key].options, "cpu")
        assert "\n" not in str(caught.value) and not isinstance(
            caught.value, MetricUnavailableError
        )


def test_a_folder_of_another_model_is_one_line(tmp_path):
    write_vit(tmp_path / "clip-vit-base-patch32")
    with pytest.raises(OmfaError, match="type clip, found 'vit'"):
        load_clip(MetricWeights(tmp_path), UNPAIRED["clip_i"].options, "cpu")
    shutil.rmtree(tmp_path / "clip-vit-base-patch32")
    folder = write_clip(tmp_path / "clip-vit-base-patch32")
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(OmfaError, match=r"model\.safetensors") as caught:
        load_clip(MetricWeights(tmp_path), UNPAIRED["clip_i"].options, "cpu")
    assert "\n" not in str(caught.value)


def test_weights_are_found_in_the_libraries_caches(tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    (hub / "hub/checkpoints").mkdir(parents=True)
    (hub / "hub/checkpoints/vgg16-397923af.pth").write_bytes(b"x")
    monkeypatch.setenv("TORCH_HOME", str(hub))
    assert MetricWeights(skip_checksum=True).find("vgg").path.parent.name == "checkpoints"
    snapshot = tmp_path / "hf/hub/models--facebook--dino-vits16/snapshots/abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(b"{}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert MetricWeights().find("dino-vits16").path == snapshot
