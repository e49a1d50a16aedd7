"""Batches hold exactly the documented arrays: names, dtypes, shapes and ranges."""

import typing

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline import batch as documented
from omfa_jax.data.pipeline.grain_pipeline import (
    PipelineSettings,
    make_eval_iterator,
    make_train_iterator,
)
from omfa_jax.data.pipeline.latent_writer import write_latents

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
IMAGES = (*SLOTS, "pose")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("batch")
    build_records(tiny.write_raw(root / "raw", {"train": 3, "val": 3}), root / "images")

    def encode(pixels):
        return np.repeat(pixels[:, ::8, ::8, :1], 4, axis=3)

    write_latents(root / "images", root / "latents", encode, slots=SLOTS, vae_id="v")
    return root


@pytest.mark.parametrize(
    ("kind", "train", "evaluation"),
    [
        ("images", documented.TrainImageBatch, documented.EvalImageBatch),
        ("latents", documented.TrainLatentBatch, documented.EvalLatentBatch),
    ],
)
def test_batches_have_the_documented_arrays(folders, kind, train, evaluation):
    vae_id = "v" if kind == "latents" else ""
    settings = PipelineSettings(str(folders / kind), SLOTS, vae_id=vae_id)
    tasks = [Task("try_on", ("person",), 1.0, "try on")]
    read = next(make_train_iterator(settings, split="train", batch_size=4, seed=0, tasks=tasks))
    _assert_documented(read, train)
    read = next(make_eval_iterator(settings, split="val", batch_size=4))
    _assert_documented(read, evaluation)
    assert read["valid"].tolist() == [True, True, True, False]
    if kind == "images":
        assert all(read[name].min() >= -1 and read[name].max() <= 1 for name in IMAGES)


def _assert_documented(batch, batch_class):
    hints = typing.get_type_hints(batch_class)
    assert set(batch) == set(hints)
    for name, hint in hints.items():
        # jaxtyping checks dtype and number of axes
        assert isinstance(batch[name], hint), name
