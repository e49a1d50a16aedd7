"""The public interface: `import omfa_jax as omfa`, its names and `load_model`."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_tiny_model, save_tiny_model

import omfa_jax as omfa
from omfa_jax.weights.imported_folder import import_source
from omfa_jax.weights.model_folder import save_model_folder
from omfa_jax.weights.torch_sources import open_source

ROOT = Path(__file__).parents[1]
TINY = Path(omfa.__file__).parent / "assets" / "tiny"
NAMES = {"load_model", "Sampler", "SamplerSettings", "try_on", "try_off", "transfer", "turntable"}


def test_every_public_name_is_documented_and_of_its_module():
    assert set(omfa.__all__) >= NAMES and set(dir(omfa)) >= {*omfa.__all__, "__version__"}
    assert omfa._MODULES.keys() == set(omfa.__all__)
    for name, module in omfa._MODULES.items():
        value = getattr(omfa, name)
        assert value is getattr(importlib.import_module(module), name)
        assert value.__module__ == module, f"{name} only passes through {module}"
        assert len(value.__doc__) > 60, f"{name} has no documentation"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'try_onn'"):
        omfa.try_onn  # type: ignore[attr-defined]
    assert not hasattr(omfa, "__path_of_nothing__")


def test_names_are_loaded_on_first_use():
    code = (
        "import sys, omfa_jax as omfa\n"
        "heavy = lambda: {'jax', 'torch', 'flax', 'numpy'} & set(sys.modules)\n"
        "assert 'try_on' in dir(omfa) and not heavy(), heavy()\n"
        "import inspect; inspect.getmembers_static(omfa)\n"
        "assert not heavy(), heavy()\n"
        "assert omfa.OmfaError and not heavy(), heavy()\n"
        "from omfa_jax import *\n"
        "assert load_model is omfa.load_model and 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_load_model_reads_exported_and_imported_folders(tmp_path):
    written = make_tiny_model()
    exported = save_tiny_model(tmp_path / "exported", written)
    import_source(open_source(exported), tmp_path / "imported")
    for folder in (exported, str(tmp_path / "imported")):
        model = omfa.load_model(folder)
        assert model.settings == written.settings and model.unet_config == written.unet_config
        kernel = model.unet_params["conv_in"]["kernel"]
        np.testing.assert_array_equal(kernel, written.unet_params["conv_in"]["kernel"])
        assert kernel.dtype == np.float32


def test_the_shipped_model_loads_from_a_relative_path(monkeypatch):
    monkeypatch.chdir(TINY)
    height, width = omfa.load_model(".", ema=False).settings.slots_px[1]
    assert (height, width) == (128, 96)


@pytest.mark.parametrize(("path", "ema"), [("run", True), ("run/checkpoints/7", False)])
def test_runs_and_their_steps_go_to_the_checkpoint_reader(monkeypatch, tmp_path, path, ema):
    calls = []

    def load(folder, *, ema):
        calls.append((folder, ema))
        return "model", 7

    monkeypatch.setattr("omfa_jax.model_loading.load_checkpoint_model", load)
    (tmp_path / "run/checkpoints/7").mkdir(parents=True)
    assert omfa.load_model(tmp_path / path, ema=ema) == "model"
    # also from within, where the path does not show the folder's name
    monkeypatch.chdir(tmp_path / path)
    assert omfa.load_model(".", ema=ema) == "model"
    assert calls == [(tmp_path / path, ema)] * 2


def test_a_path_that_holds_no_model_says_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    save_model_folder(tmp_path / "new/model", make_tiny_model())
    expected = "a training workdir, one of its steps"
    for path, message in {
        "absent": "no model at",
        "file": "no model at",
        "empty": "is not a model folder",
        "new": "is not a model folder",
        "run": "give a training workdir or one of its steps",
        "run/checkpoints": "is not a model folder",
        "run/checkpoints/100": "give a training workdir or one of its steps",
    }.items():
        with pytest.raises(omfa.OmfaError, match=message) as error:
            omfa.load_model(tmp_path / path)
        assert expected in str(error.value) or "one of its steps" in message
        assert path in str(error.value)
    # the settings of a run, without its UNet
    with pytest.raises(omfa.OmfaError, match="unet"):
        omfa.load_model(tmp_path / "new/model")


def test_a_model_without_prompts_is_named(tmp_path):
    folder = save_tiny_model(tmp_path / "model", make_tiny_model())
    (folder / "omfa.json").unlink()
    with pytest.raises(omfa.OmfaError, match=r"has no omfa\.json"):
        omfa.load_model(folder)
