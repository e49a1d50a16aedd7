"""Weights that a mesh cannot shard as asked: resharded, warned of or rejected, never silent."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_settings import make_optimizer_settings

from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.cli.plan_command import make_job
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import get_unet_config, get_unet_shapes
from omfa_jax.parallel.activation_sharding import get_activation_sizes
from omfa_jax.parallel.fsdp import make_all_gather_params
from omfa_jax.parallel.mesh import MESH_AXES, MeshSettings, make_mesh
from omfa_jax.parallel.mesh_resolution import MIN_SHARDED_FRACTION, make_abstract_mesh, resolve_mesh
from omfa_jax.parallel.sharding_rules import (
    REPLICATED_RULES,
    UNET_RULES,
    compute_sharding_coverage,
    format_sharding_table,
    match_partition_spec,
)
from omfa_jax.parallel.topology import Topology
from omfa_jax.planning.plan import find_fitting_overrides, make_plan
from omfa_jax.train import meshes
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.state import get_state_shardings, make_abstract_state

BASE = "configs/base.py"
# {fsdp: (fraction sharded, GB of float32 weights per device)}, as in docs/plans.md
SHARES = {
    **{2: (0.9994, 5.138), 4: (0.9994, 2.572), 5: (0.9994, 2.059), 8: (0.9994, 1.289)},
    **{10: (0.9994, 1.033), 16: (0.9994, 0.648), 20: (0.9994, 0.520), 32: (0.9994, 0.327)},
    **{40: (0.9994, 0.263), 64: (0.9994, 0.167), 80: (0.9994, 0.135), 128: (0.9953, 0.128)},
    **{256: (0.9631, 0.418)},
}
BAD = {3: 1, 6: 2, 7: 1, 12: 4, 24: 8, 48: 16, 96: 32, 192: 64, 512: 160}


@pytest.fixture(scope="module")
def sdxl():
    return get_unet_shapes(get_unet_config("sdxl"))


def size_mesh(**sizes):
    return make_abstract_mesh({axis: sizes.get(axis, 1) for axis in MESH_AXES})


def divided(params, devices, settings=None, **changes):
    return resolve_mesh(settings or MeshSettings(**changes), devices, UNET_RULES, params)


@pytest.mark.parametrize("fsdp", SHARES)
def test_fsdp_that_divides_one_dimension_shards_the_weight(sdxl, fsdp):
    share, gigabytes = SHARES[fsdp]
    found = compute_sharding_coverage(UNET_RULES, sdxl, size_mesh(fsdp=fsdp))
    assert found.get_fraction("fsdp") == pytest.approx(share, abs=5e-5)
    assert found.local_bytes / 1e9 == pytest.approx(gigabytes, abs=1e-3)
    assert divided(sdxl, fsdp, data=1, fsdp=fsdp).settings.fsdp == fsdp


@pytest.mark.parametrize("fsdp", [f for f in BAD if f != 512])
def test_fsdp_that_divides_nothing_is_rejected_with_the_nearest_that_does(sdxl, fsdp):
    near = BAD[fsdp]
    with pytest.raises(OmfaError) as caught:
        divided(sdxl, fsdp, data=1, fsdp=fsdp)
    text = str(caught.value)
    share = compute_sharding_coverage(UNET_RULES, sdxl, size_mesh(fsdp=fsdp)).get_fraction("fsdp")
    assert share < MIN_SHARDED_FRACTION and f"shards {share:.1%} of the weights" in text
    assert f"--config.mesh.fsdp={near} --config.mesh.data={fsdp // near} " in text
    assert "--config.mesh.allow_replicated=true" in text and "\n" not in text
    # the suggested mesh is accepted without a warning
    assert not divided(sdxl, fsdp, data=fsdp // near, fsdp=near).notes
    # and allow_replicated with one warning
    allowed = divided(sdxl, fsdp, data=1, fsdp=fsdp, allow_replicated=True)
    assert len(allowed.notes) == 1 and allowed.settings.fsdp == fsdp


@pytest.mark.parametrize(
    ("devices", "data", "fsdp"),
    [(6, 3, 2), (8, 1, 8), (12, 3, 4), (24, 3, 8), (96, 3, 32), (256, 2, 128)],
)
def test_fsdp_minus_one_minimizes_bytes_per_device(sdxl, devices, data, fsdp):
    found = divided(sdxl, devices, data=1, fsdp=-1)
    assert (found.settings.data, found.settings.fsdp) == (data, fsdp)
    assert len(found.notes) == (data > 1)
    if data > 1:
        assert f"fsdp=-1 over {devices} devices: fsdp={fsdp} with data={data}" in found.notes[0]
    # the number of devices and of batch shards stays
    assert found.settings.data * found.settings.fsdp == devices
    assert (found.settings.tensor, found.settings.slice) == (1, 1)


def test_fsdp_minus_one_is_rejected_if_no_size_shards_enough():
    """11 devices would shard half of these weights; a fallback to 1 must not be silent."""
    kernels = {f"conv{n}": {"kernel": np.zeros((1, 1, n, n), np.float32)} for n in (11, 12)}
    rules = (("/kernel$", (None, None, "fsdp", None)),)
    with pytest.raises(
        OmfaError, match=r"no divisor of 11 devices shards 90% .*config.mesh.data=-1 for"
    ):
        resolve_mesh(MeshSettings(data=1, fsdp=-1), 11, rules, kernels)
    found = resolve_mesh(MeshSettings(1, -1, allow_replicated=True), 11, rules, kernels)
    assert (found.settings.data, found.settings.fsdp) == (11, 1) and len(found.notes) == 1
    # weights that the rules replicate do not count
    found = resolve_mesh(MeshSettings(1, -1), 8, REPLICATED_RULES, kernels)
    assert found.settings == MeshSettings(data=8, fsdp=1) and len(found.notes) == 1
    with pytest.raises(
        OmfaError, match=r"fsdp=11 shards 45.7% .*mesh.fsdp=1 --config.mesh.data=11"
    ):
        resolve_mesh(MeshSettings(data=1, fsdp=11), 11, rules, kernels)


def test_fsdp_minus_one_warns_of_replicated_weights(sdxl):
    (note,) = divided(sdxl, 128, data=1, fsdp=-1).notes
    assert note.startswith("config.mesh.fsdp=128 shards 99.5% of the weights")
    assert "--config.mesh.fsdp=64 --config.mesh.data=2 " in note
    assert not divided(sdxl, 64, data=1, fsdp=-1).notes


def test_fsdp_minus_one_keeps_the_other_axes(sdxl):
    found = divided(sdxl, 96, MeshSettings(data=2, fsdp=-1, tensor=2, slice=2))
    assert found.settings == MeshSettings(data=6, fsdp=4, tensor=2, slice=2)


def test_a_tensor_axis_is_checked_alike(sdxl):
    with pytest.raises(OmfaError, match=r"mesh.tensor=3 shards 0.0% .* --config.mesh.tensor=1 "):
        divided(sdxl, 3, data=1, tensor=3)
    sizes = get_activation_sizes(get_unet_config("sdxl"))
    assert sizes == {"heads": (10, 20), "hidden": (5120, 10240)}
    four = resolve_mesh(MeshSettings(data=1, tensor=4), 4, UNET_RULES, sdxl, sizes)
    assert [note for note in four.notes if "does not divide 10 heads" in note] == list(four.notes)
    assert "2 divides them" in four.notes[0]
    assert not resolve_mesh(MeshSettings(data=1, tensor=5), 5, UNET_RULES, sdxl, sizes).notes


def test_small_models_shard_on_eight_devices_and_warn_on_wide_meshes():
    for preset in ("tiny", "xs"):
        assert not divided(get_unet_shapes(get_unet_config(preset)), 8, data=1, fsdp=8).notes, (
            preset
        )
    small = get_unet_shapes(get_unet_config("ladder_12"))
    (note,) = divided(small, 8, data=1, fsdp=8).notes
    assert "shards 96.8% of the weights" in note and "--config.mesh.fsdp=4" in note
    with pytest.raises(OmfaError, match="fsdp=32 shards"):
        divided(small, 32, data=1, fsdp=32)
    # the fewest bytes among sizes that shard enough
    assert divided(small, 32, data=1, fsdp=-1).settings == MeshSettings(data=4, fsdp=8)


def test_moments_and_ema_are_sharded_as_the_weights(sdxl):
    optimizer = make_optimizer(make_optimizer_settings(), 10)
    state = make_abstract_state(
        lambda: jax.tree.map(lambda s: jnp.zeros(s.shape), sdxl), optimizer, 0.9
    )
    mesh = size_mesh(fsdp=10)
    shardings = get_state_shardings(state, UNET_RULES, mesh)

    def local(tree, laid):
        parts = jax.tree.map(lambda a, s: math.prod(s.shard_shape(a.shape)), tree, laid)
        return sum(jax.tree.leaves(parts))

    params = local(state.params, shardings.params)
    assert params == compute_sharding_coverage(UNET_RULES, sdxl, mesh).local_bytes // 4
    assert local(state.ema, shardings.ema) == params
    assert local(state.opt_state, shardings.opt_state) == pytest.approx(2 * params, rel=1e-4)


def test_the_layer_dimension_is_never_sharded_and_tensor_keeps_its_own():
    path = ("down_blocks.1", "attentions.0", "transformer_blocks", "attn2", "to_k", "kernel")
    spec, _ = match_partition_spec(UNET_RULES, path, (10, 2048, 1280), size_mesh(fsdp=5))
    assert tuple(spec) == (None, None, "fsdp")
    spec, _ = match_partition_spec(UNET_RULES, path, (10, 2048, 1280), size_mesh(fsdp=5, tensor=2))
    assert tuple(spec) == (None, None, "tensor")
    spec, _ = match_partition_spec(UNET_RULES, path, (8, 12, 12), size_mesh(fsdp=8))
    assert "fsdp" not in spec


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [("attn1/to_q", (12, 16), 1), ("conv1", (3, 3, 12, 16), 3), ("to_out.0", (16, 12), 0)],
)
def test_a_layer_gathers_along_any_dimension(name, shape, axis):
    """The weight is gathered in full; its gradient is summed and scattered back to the shards."""
    path = ("mid_block", *name.split("/"), "kernel")
    tree = value = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    for part in reversed(path):
        tree = {part: tree}
    mesh = make_mesh(MeshSettings(data=1, fsdp=8))
    spec, _ = match_partition_spec(UNET_RULES, path, shape, mesh)
    assert spec.index("fsdp") == axis
    fetch = make_all_gather_params(UNET_RULES, tree, mesh)
    assert fetch is not None

    def gradient(part, scale):
        return jax.grad(lambda p: (fetch(path, p, jnp.float32) ** 2 * scale[0]).sum())(part)

    scales = jnp.arange(1.0, 9.0)
    run = jax.shard_map(
        gradient, mesh=mesh, in_specs=(spec, PartitionSpec("fsdp")), out_specs=spec, check_vma=False
    )
    made = jax.jit(run)(jax.device_put(value, NamedSharding(mesh, spec)), scales)
    np.testing.assert_array_equal(made, 2 * value * scales.sum())


def test_the_plan_has_the_same_shares_and_errors(capsys, caplog):
    small = ("--config.model.unet=xs", "--config.train.remat=none", "--config.train.attention=xla")

    def job(*overrides):
        return make_job(config_lib.load_config(BASE, [*small, *overrides]))

    twelve = Topology("h100-12", "h100", 12, 12, ())
    left = ("--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.train.batch_size=12")
    made = make_plan(job(*left), twelve)
    assert made.mesh == {"slice": 1, "data": 3, "fsdp": 4, "tensor": 1} and len(made.notes) == 1
    shapes = get_unet_shapes(job().unet)
    share = compute_sharding_coverage(UNET_RULES, shapes, size_mesh(fsdp=4)).get_fraction("fsdp")
    assert made.cut == {"fsdp": share} and share > 0.99
    # its advice is the mesh that -1 would choose
    assert "--config.mesh.fsdp=4" in (
        find_fitting_overrides(job("--config.train.batch_size=12"), twelve) or ""
    )
    fixed = ("--config.mesh.data=1", "--config.mesh.fsdp=6", "--config.train.batch_size=6")
    flags = ["plan", "--config", BASE, "--topology", "h100-6", *small, *fixed]
    assert main(flags) == 2
    share = compute_sharding_coverage(UNET_RULES, shapes, size_mesh(fsdp=6)).get_fraction("fsdp")
    assert f"config.mesh.fsdp=6 shards {share:.1%} of the weights" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING):
        assert main([*flags, "--config.mesh.allow_replicated=true"]) == 0
    assert f"mesh fsdp 6; fsdp shards {share:.1%} of weights" in capsys.readouterr().out
    assert "the nearest size that divides them is --config.mesh.fsdp=2" in caplog.text


def test_a_studys_plan_names_the_size_that_does_not_shard(tmp_path, capsys):
    flags = ["--out", str(tmp_path), "--sizes", "ladder_12", "--samples", "6400"]
    flags += ["--dataset-size", "64", "--topology", "v5litepod-32", "--config.mesh.fsdp=32"]
    config = ["--config", "configs/ladder.py", "--config.train.batch_size=32"]
    config += ["--config.mesh.data=1"]
    assert main(["scaling", "plan", *config, *flags]) == 2
    assert "ladder_12: config.mesh.fsdp=32 shards" in capsys.readouterr().err


def test_training_fails_or_warns_before_it_starts(monkeypatch, caplog):
    config = config_lib.load_config(BASE, ["--config.mesh.data=1", "--config.mesh.fsdp=12"])
    model = load_initial_model(config_lib.make_weights_source(config), None, abstract=True)
    monkeypatch.setattr(jax, "device_count", lambda: 12)
    with pytest.raises(OmfaError, match=r"fsdp=12 shards 1.8% .*fsdp=4 --config.mesh.data=3"):
        meshes.make_network_mesh(config_lib.make_mesh_settings(config), model)
    config = config_lib.load_config(BASE, ["--config.mesh.data=1", "--config.mesh.fsdp=-1"])
    made = []
    monkeypatch.setattr(meshes, "make_mesh", made.append)
    with caplog.at_level(logging.WARNING):
        meshes.make_network_mesh(config_lib.make_mesh_settings(config), model)
    assert made == [MeshSettings(data=3, fsdp=4)]
    assert "config.mesh.fsdp=-1 over 12 devices: fsdp=4 with data=3" in caplog.text


def test_explain_sharding_works_for_rejected_meshes(capsys, caplog, tmp_path):
    flags = ["--workdir", str(tmp_path), "--explain-sharding", "--config.mesh.data=1"]
    with caplog.at_level(logging.WARNING):
        assert main(["train", "--config", BASE, *flags, "--config.mesh.fsdp=12"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "on each of 12 devices; fsdp shards 1.8%" in last
    assert "the nearest size that divides them is --config.mesh.fsdp=4" in caplog.text


def test_vae_training_rejects_fsdp_and_tensor(tmp_path, capsys):
    """It is replicated: fsdp would be data under another name, tensor would repeat work."""
    flags = [
        *("train", "--config", "configs/tiny_vae.py", "--workdir", str(tmp_path)),
        *("--config.data.records=none", "--config.mesh.data=1"),
    ]
    assert main([*flags, "--config.mesh.fsdp=8"]) == 2
    assert "--config.mesh.fsdp=1 --config.mesh.data=8" in capsys.readouterr().err
    assert main([*flags, "--config.mesh.tensor=8"]) == 2
    assert "config.mesh.tensor=8 shards 0.0% of the weights" in capsys.readouterr().err


def test_the_explained_table_ends_with_the_coverage(sdxl):
    for fsdp in (4, 12, 20):
        mesh = size_mesh(fsdp=fsdp)
        found = compute_sharding_coverage(UNET_RULES, sdxl, mesh)
        last = format_sharding_table(UNET_RULES, sdxl, mesh).splitlines()[-1]
        assert (
            last.endswith(f"{found.format_summary()}")
            and f"{found.local_bytes / 1e9:.3f} GB" in last
        )
