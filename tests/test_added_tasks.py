"""A task is added to a trained model by a new run from its weights, as the refusal says."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from small_settings import make_keep_settings

from omfa_jax.cli.config_flag import format_config_file
from omfa_jax.cli.config_lib import load_config, make_weights_source
from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.checkpointer import Checkpointer
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.train.state import TrainState
from omfa_jax.weights.model_folder import load_model_folder, save_model_folder
from omfa_jax.weights.prompt_table import load_prompts

ROOT = Path(__file__).parents[1]
TINY = ROOT / "omfa_jax/assets/tiny"
ON = "a person wearing the garment"


@pytest.fixture
def trained(tmp_path):
    """A workdir with the small model and a checkpoint of next to nothing."""
    workdir = tmp_path / "run"
    save_model_folder(workdir / "model", load_model_folder(TINY))
    params = {"conv_in": {"bias": np.full(3, 7, np.float32)}}
    checkpoints = Checkpointer(workdir, make_keep_settings(last=2))
    checkpoints.save(5, TrainState(np.int32(5), params, None, {"mu": params}), {}, {})
    checkpoints.close()
    return workdir


@pytest.fixture
def more_tasks(tmp_path):
    """Return the function that loads a config with a third task."""
    values = load_config(ROOT / "configs/tiny.py").to_dict()
    values["tasks"]["joint"] = {"noised": ("garment", "person"), "weight": 1.0, "prompt": ON}
    file = tmp_path / "made" / "more.py"
    file.parent.mkdir()
    file.write_text(format_config_file(ConfigDict(values)))
    return lambda *flags: make_weights_source(load_config(file, flags))


def test_a_task_is_added_as_the_refusal_says(trained, more_tasks, tmp_path, caplog):
    with pytest.raises(OmfaError, match="it has no joint") as refused:
        load_initial_model(more_tasks(), trained)
    (flag,) = [word for word in str(refused.value).split() if word.startswith("--config.")]
    model = load_initial_model(more_tasks(flag), tmp_path / "new")
    assert "trained with other tasks (it has no joint)" in caplog.text
    assert [task.name for task in model.settings.tasks] == ["joint", "try_off", "try_on"]
    np.testing.assert_array_equal(model.unet_params["conv_in"]["bias"], [7, 7, 7])
    table = load_prompts(TINY / "prompts.safetensors")
    expected = table.context[table.prompts.index(ON)]
    np.testing.assert_array_equal(model.prompts["context"][0], expected)


def test_an_exported_model_may_get_another_task_too(more_tasks, tmp_path, caplog):
    flags = (f"--config.model.init={TINY}", "--config.model.init_unet=true")
    model = load_initial_model(more_tasks(*flags), tmp_path / "new")
    assert "trained with other tasks (it has no joint)" in caplog.text
    assert [task.name for task in model.settings.tasks] == ["joint", "try_off", "try_on"]
    assert model.unet_params is not None
