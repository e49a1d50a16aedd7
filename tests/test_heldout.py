"""The held-out loss: what it is, and all that it must not depend on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
from tiny_training import SETTINGS, UNET, make_run
from tiny_viton import write_raw

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS, Task, make_noised_table
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_eval_iterator
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.diffusion.noise import make_example_ids, make_example_keys
from omfa_jax.diffusion.partial import compute_target, corrupt, make_network_input
from omfa_jax.diffusion.schedule import get_alpha_sigma
from omfa_jax.evals import heldout_loss
from omfa_jax.evals.heldout_loss import (
    HeldOutSettings,
    compute_noise_levels,
    make_heldout_batches,
    make_heldout_loss_fn,
)
from omfa_jax.models import init_unet
from omfa_jax.parallel.global_arrays import get_data_shard, put_global
from omfa_jax.parallel.mesh import make_replicated_sharding
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES, UNET_RULES, make_param_shardings
from omfa_jax.train.network import make_training_network

COUNT = 11
SIZES = {"garment": (4, 4), "person": (4, 4), "face": (2, 2), "pose": (4, 4)}
MEASURE = HeldOutSettings(examples=COUNT, timesteps=4, seed=3)


def examples(count=COUNT):
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_latents": rng.standard_normal((count, *size, 4)).astype(np.float16)
        for name, size in SIZES.items()
    }
    names = np.array([f"person {number}" for number in range(count)])
    return {**arrays, "has_pose": np.arange(count) % 4 > 0, "key": names}


def dealt(whole, size):
    """Cut examples into batches as `make_eval_iterator` does: the last repeats its last row."""
    count = len(whole["key"])
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        valid = np.arange(start, start + size) < count
        yield {**{name: array[rows] for name, array in whole.items()}, "valid": valid}


def mixing(params, inputs, t, rows, prompts):
    """A network that compiles in no time and whose output depends on everything it is given."""
    pooled = jnp.mean(inputs, axis=(1, 2), keepdims=True)
    scale = (1 + t / 1000)[:, None, None, None]
    said = prompts["pooled"][rows].mean(-1)[:, None, None, None]
    return jnp.tanh((inputs + pooled) @ params["kernel"] * scale + said)


def matrix():
    shape = (SETTINGS.in_channels, SETTINGS.out_channels)
    return {"kernel": np.random.default_rng(2).standard_normal(shape, np.float32) / 3}


def measured(
    tmp_path,
    whole,
    mesh=(1, 1, 1),
    settings=MEASURE,
    diffusion=SETTINGS,
    unet=None,
    order=(),
):
    """Return the loss of the mixing network, or of the UNet with parameters `unet`."""
    run = make_run(tmp_path, 1, mesh, order=order, apply=mixing)
    params, rules = (unet, UNET_RULES) if unet else (matrix(), REPLICATED_RULES)
    apply = make_training_network(diffusion, UNET, run.settings, run.mesh) if unet else mixing
    shardings = make_param_shardings(rules, params, run.mesh)
    shard, shards = get_data_shard(run.mesh)
    mine = (
        {name: np.array_split(rows, shards)[shard] for name, rows in batch.items()}
        for batch in dealt(whole, heldout_loss.get_global_batch_size(run.mesh))
    )
    loss = make_heldout_loss_fn(
        diffusion, settings, apply, run.mesh, shardings, make_heldout_batches(mine, None)
    )
    prompts = run.constants["prompts"]
    whole_prompts = jax.tree.map(lambda _: make_replicated_sharding(run.mesh), prompts)
    return loss(put_global(params, shardings), put_global(prompts, whole_prompts))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("alone"), examples())


def test_it_is_the_masked_error_at_the_middles_of_equal_parts(tmp_path, alone):
    assert compute_noise_levels(4, 1000) == (125, 375, 625, 875) == alone.timesteps
    assert alone.keys == tuple(examples()["key"]) and alone.tasks == ("try_on", "try_off")
    run, canvas, whole = make_run(tmp_path, 1), SETTINGS.canvas, examples()
    number, task = 5, 1
    one = {name: jnp.asarray(whole[f"{name}_latents"][number][None], jnp.float32) for name in SIZES}
    pose = canvas.assemble({"person": one.pop("pose")})
    x0 = canvas.assemble(one)
    mask = canvas.make_mask(jnp.asarray(make_noised_table(SETTINGS.tasks)[task])[None])
    for column, level in enumerate(alone.timesteps):
        t = jnp.array([level])
        own = make_example_keys(
            jax.random.key(MEASURE.seed), make_example_ids(whole["key"][[number]])
        )[0]
        eps = jax.random.normal(jax.random.fold_in(own, level), canvas.shape)[None]
        alpha, sigma = get_alpha_sigma(SETTINGS.schedule, t)
        xt = corrupt(x0, eps, mask, alpha, sigma)
        inputs = make_network_input(SETTINGS.unet_inputs, canvas, xt, mask, pose)
        output = mixing(matrix(), inputs, t, jnp.array([task]), run.constants["prompts"])
        error = (output - compute_target(SETTINGS.prediction, x0, eps, alpha, sigma)) ** 2
        inside = np.broadcast_to(mask, error.shape)
        expected = np.asarray(error)[inside].mean()
        assert alone.values[number, column, task] == pytest.approx(expected, rel=1e-5)


def test_the_figures_are_means_of_the_same_losses(alone):
    row = alone.to_scalars()
    times = {f"loss/t{low:03d}-{low + 249:03d}" for low in (0, 250, 500, 750)}
    assert set(row) == {"loss", "loss/try_on", "loss/try_off", *times}
    assert row["loss"] == pytest.approx((row["loss/try_on"] + row["loss/try_off"]) / 2)
    assert row["loss"] == pytest.approx(np.mean([row[name] for name in times]))
    assert row["loss/try_off"] == pytest.approx(alone.values[..., 1].mean())
    assert row["loss/t250-499"] == pytest.approx(alone.values[:, 1].mean())
    assert len(set(np.round(list(row.values()), 5))) == len(row)
    assert 0 < alone.standard_error < row["loss"]


@pytest.mark.parametrize("mesh", [(2, 1, 1), (8, 1, 1)], ids=str)
def test_devices_do_not_change_a_bit(tmp_path, alone, mesh):
    other = measured(tmp_path, examples(), mesh)
    np.testing.assert_array_equal(other.values, alone.values)
    assert (other.keys, other.total) == (alone.keys, alone.total)


def test_weights_cut_over_devices_do_not_change_a_bit_of_the_unets(tmp_path):
    """fsdp gathers them where they are used; a tensor axis sums in another order."""
    params = jax.device_get(jax.jit(lambda: init_unet(UNET, jax.random.key(1)))())
    one = measured(tmp_path, examples(), unet=params)
    cut = measured(tmp_path, examples(), (2, 4, 1), unet=params)
    np.testing.assert_array_equal(cut.values, one.values)
    summed = measured(tmp_path, examples(), (1, 2, 2), unet=params)
    np.testing.assert_allclose(summed.values, one.values, rtol=2e-5)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_rows_a_device_change_the_rounding_alone(tmp_path, alone, monkeypatch, rows):
    monkeypatch.setattr(heldout_loss, "ROWS_PER_DEVICE", rows)
    other = measured(tmp_path, examples(), (2, 1, 1))
    np.testing.assert_allclose(other.values, alone.values, rtol=1e-5)
    assert other.total == pytest.approx(alone.total, rel=1e-6)


def test_an_examples_noise_is_its_own_wherever_it_lies(tmp_path, alone):
    order = np.random.default_rng(1).permutation(COUNT)
    shuffled = {name: array[order] for name, array in examples().items()}
    other = measured(tmp_path, shuffled)
    np.testing.assert_allclose(other.values, alone.values[order], rtol=1e-5)
    renamed = examples() | {"key": np.array([f"other {number}" for number in range(COUNT)])}
    assert relative(measured(tmp_path, renamed), alone).min() > 1e-3
    reseeded = measured(tmp_path, examples(), settings=dataclasses.replace(MEASURE, seed=4))
    assert relative(reseeded, alone).min() > 1e-3


def relative(one, other):
    return np.abs(one.values - other.values).mean(axis=(1, 2)) / other.values.mean()


@pytest.mark.parametrize("name", ["garment", "face", "pose", "person"])
def test_a_condition_that_is_dropped_changes_it(tmp_path, alone, name):
    whole = examples()
    whole[f"{name}_latents"] = np.zeros_like(whole[f"{name}_latents"])
    change = np.abs(measured(tmp_path, whole).values - alone.values)
    affected = whole["has_pose"] if name == "pose" else np.ones(COUNT, bool)
    assert (change[affected] > 1e-6).all()
    assert not change[~affected].any()


def test_a_task_that_is_not_trained_has_no_part(tmp_path, alone):
    tasks = (*SETTINGS.tasks, Task("joint", ("garment", "person"), 0.0, "both"))
    tasks = (dataclasses.replace(tasks[0], weight=1.5), *tasks[1:])
    other = measured(tmp_path, examples(), diffusion=dataclasses.replace(SETTINGS, tasks=tasks))
    np.testing.assert_array_equal(other.values, alone.values)
    by_task = alone.values.mean(axis=(0, 1))
    assert other.total == pytest.approx(0.75 * by_task[0] + 0.25 * by_task[1])


def pooled(pictures):
    """A stand-in for the VAE: means of 8 px squares, four channels."""
    b, h, w, _ = pictures.shape
    means = pictures.reshape(b, h // 8, 8, w // 8, 8, 3).mean(axis=(2, 4))
    return np.concatenate([means, means[..., :1] * 2], axis=-1)


def test_pictures_and_their_stored_latents_have_one_loss(tmp_path):
    raw, records, latents = tmp_path / "raw", tmp_path / "records", tmp_path / "latents"
    build_records(write_raw(raw, {"train": 1, "test": 6}), records)
    slots = dict(zip(COMPONENTS, SETTINGS.slots_px, strict=True))
    write_latents(records, latents, pooled, slots=slots, vae_id="pooled", splits=["test"])
    run = make_run(tmp_path, 1, (2, 1, 1))
    params, found = matrix(), {}
    shardings = make_param_shardings(REPLICATED_RULES, params, run.mesh)
    for folder, vae_id, encode in ((records, "", pooled), (latents, "pooled", None)):
        pipeline = PipelineSettings(str(folder), slots, vae_id=vae_id, threads=0)
        rows = heldout_loss.get_global_batch_size(run.mesh)
        read = make_eval_iterator(pipeline, split="test", batch_size=rows, limit=5)
        batches = make_heldout_batches(read, encode)
        loss = make_heldout_loss_fn(SETTINGS, MEASURE, mixing, run.mesh, shardings, batches)
        found[folder] = loss(put_global(params, shardings), run.constants["prompts"])
    assert found[records].keys == tuple(f"{i:05d}_00" for i in range(5))
    np.testing.assert_array_equal(found[records].values, found[latents].values)
    with pytest.raises(OmfaError, match="needs the model's VAE"):
        pictures = PipelineSettings(str(records), slots, threads=0)
        make_heldout_batches(make_eval_iterator(pictures, split="test", batch_size=4), None)


def test_settings_that_cannot_be_used():
    with pytest.raises(OmfaError, match=r"multiple of 4, got 6"):
        HeldOutSettings(timesteps=6)
    with pytest.raises(OmfaError, match="at least 1 example"):
        HeldOutSettings(examples=0)


MEASURING = """
import json, os, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
jax.config.update("jax_default_matmul_precision", "highest")
from omfa_jax.parallel import distributed
distributed.initialize(Path(sys.argv[1]))
from test_heldout import examples, measured
found = measured(Path(sys.argv[1]), examples(), (2, 1, 1))
print(json.dumps({"keys": found.keys, "values": found.values.tolist()}))
"""


def test_two_processes_are_one(tmp_path):
    found = []
    for count in (1, 2):
        started = processes.start(tmp_path, 1, count, devices=2, program=MEASURING)
        for status, out, err in processes.finish(started):
            assert status == 0, err[-3000:]
            found.append(json.loads(out.strip().splitlines()[-1]))
    assert found[0]["keys"] == list(examples()["key"])
    assert found[0] == found[1] == found[2]
