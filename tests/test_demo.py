"""The whole path, small: what `make demo` runs, with a handful of people and steps."""

import dataclasses
import json

import jax
import pytest
from one_device import use_one_device
from tiny_model import save_tiny_model

import omfa_jax as omfa
from omfa_jax import model_loading
from omfa_jax.body.body_file import load_body
from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.evals.demo_photo import FOUND, KNOWN, OTHER
from omfa_jax.evals.scores_file import read_scores
from omfa_jax.models import UNETS, init_unet
from omfa_jax.sampling import person_inputs
from omfa_jax.sampling.pose_sources import PosedBodies, get_body_model


@pytest.fixture
def start(tmp_path, monkeypatch):
    """The model that ships with a UNet of a few weights in its place, which compiles in no time."""
    model = omfa.load_model(model_loading.TINY_FOLDER)
    sizes = {"block_channels": (16, 32), "transformer_depth": (0, 0), "heads": (2, 4)}
    config = dataclasses.replace(model.unet_config, **sizes)
    monkeypatch.setitem(UNETS, "tiny", config)
    unet = jax.device_get(jax.jit(lambda: init_unet(config, jax.random.key(0)))())
    model = dataclasses.replace(model, unet_config=config, unet_params=unet)
    folder = save_tiny_model(tmp_path / "start", model)
    monkeypatch.setattr(model_loading, "TINY_FOLDER", folder)


def test_the_demo_runs_from_nothing_to_the_report(start, tmp_path, monkeypatch):
    use_one_device(monkeypatch)
    # Muon's step takes half a minute longer to compile than AdamW's
    load = config_lib.load_config
    adamw = "--config.optimizer.name=adamw"
    monkeypatch.setattr(config_lib, "load_config", lambda file, more: load(file, [*more, adamw]))

    def find_exact_body(person, smplx_model, name, instead):
        # the fit takes half a minute to compile and has tests of its own
        params, camera = load_body(tmp_path / "world/test/smplx/90000_00.npz")
        return PosedBodies([params], camera, get_body_model(smplx_model))

    monkeypatch.setattr(person_inputs, "fit_photo_body", find_exact_body)
    flags = ["--train=8", "--test=4", "--steps=2", "--sampling-steps=2", "--processes=1"]
    assert main(["demo", f"--workdir={tmp_path}", *flags]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["influence"]) == 3
    assert set(scores["exact_truth_psnr_db"]) >= {"try_on, unpaired garment", "try_on, new pose"}
    for name in ("unet", "vae encoder", "vae decoder"):
        assert scores["export"][name]["relative_l2"] <= 5e-6
    assert len(scores["seconds"]) == 8
    page = (tmp_path / "report.html").read_text()
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 7
    # the sheets, then what `omfa eval report` shows of both models
    before, after = page.split("scored by omfa eval")
    assert before.count("<img") == 7 and after.count("<img") > 6
    # with the exact body nothing is lost; another person's is another picture
    alone = scores["photo_alone"]
    found, known, other = (alone["psnr_db"][name] for name in (FOUND, KNOWN, OTHER))
    assert alone["person"] == "90000_00" and alone["loss_db"] == 0
    assert found == known != other and "alone is 0.00 dB worse" in before
    assert ">tiny<" in after and ">untrained<" in after and "SSIM" in after
    tiny, untrained = (read_scores(tmp_path / "eval" / f"{m}.json") for m in ("tiny", "untrained"))
    assert (tiny.method, untrained.method) == ("tiny", "untrained")
    assert tiny.counts.scored == untrained.counts.scored == 4
    assert set(tiny.influence or {}) == {"garment", "pose", "person"}
    exact = tiny.truth or {}
    for name, label in (("unpaired", "try_on, unpaired garment"), ("new_pose", "try_on, new pose")):
        assert round(exact[name]["psnr"], 2) == scores["exact_truth_psnr_db"][label]["whole"]
    assert scores["against_untrained"]["examples"] == 4
    folders = ("tiny/try_on/pred", "tiny/try_off/other_person", "untrained/try_on/pred")
    assert all(len(list((tmp_path / "eval" / f).glob("*.png"))) == 4 for f in folders)
