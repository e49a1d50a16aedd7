"""Parts of a plan beyond the UNet's step: pictures, the VAE, sampling, storage, own machines."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct as Shape
from tiny_model import VAE
from tiny_training import PLAIN_UNET

from omfa_jax.cli.main import main
from omfa_jax.cli.plan_command import load_job
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import flatten
from omfa_jax.models import (
    VAES,
    Compute,
    apply_unet,
    decode,
    encode,
    encode_posterior,
    get_unet_shapes,
    get_vae_shapes,
)
from omfa_jax.parallel.machine_file import EXAMPLE
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.aot import describe_compiler_error, make_job_step
from omfa_jax.planning.flops import count_unet_flops
from omfa_jax.planning.frozen_vae import (
    compute_encoding_bytes,
    compute_sampling_memory,
    count_encoding_flops,
)
from omfa_jax.planning.live_bytes import compute_live_bytes
from omfa_jax.planning.plan import compute_recomputed_flops, make_plan
from omfa_jax.planning.storage_traffic import compute_storage_traffic
from omfa_jax.planning.vae_plan import count_vae_residuals

VITONHD, TINY_VAE = "configs/vitonhd.py", "configs/tiny_vae.py"
TINY = "--config.model.unet=tiny"
# the least, so that no lighter one is looked for
NO_REMAT = "--config.train.remat=none"
FUSED = {"fused_attention": True}


def job(config, *overrides):
    class Options:
        pass

    Options.config, Options.overrides = config, overrides  # type: ignore[attr-defined]
    return load_job(Options)  # type: ignore[arg-type]


def compiled_bytes(function, *arguments):
    """XLA's temporaries and results."""
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_vaes_memory_is_the_compilers(way):
    config = VAES["tiny"]
    height, width = 256, 192
    if way == "encode":
        images = Shape((2, height, width, 3), jnp.float32)
    else:
        stride = config.stride
        images = Shape((2, height // stride, width // stride, config.latent_channels), jnp.float32)

    def function(params, images):
        return (encode if way == "encode" else decode)(config, params, images)

    found = compute_live_bytes(function, get_vae_shapes(config), images)
    compiled = compiled_bytes(function, get_vae_shapes(config), images)
    assert found == pytest.approx(compiled, rel=0.1)


def test_the_unets_memory_is_the_compilers():
    shapes = get_unet_shapes(PLAIN_UNET)
    inputs = (
        Shape((2, 64, 64, PLAIN_UNET.in_channels), jnp.float32),
        Shape((2,), jnp.int32),
        Shape((2, 2, PLAIN_UNET.context_dim), jnp.float32),
        Shape((2, PLAIN_UNET.pooled_dim), jnp.float32),
        Shape((2, 6), jnp.float32),
    )

    def function(params, x, t, context, pooled, ids):
        return apply_unet(PLAIN_UNET, params, x, t, context, pooled, ids, Compute())

    found = compute_live_bytes(function, shapes, *inputs)
    assert found == pytest.approx(compiled_bytes(function, shapes, *inputs), rel=0.3)


def test_a_scan_is_at_its_peak_once_and_fused_operations_store_nothing():
    def chain(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w) * 2, None), x, length=7)[0].sum()

    x, w = Shape((256, 256), jnp.float32), Shape((256, 256), jnp.float32)
    # the carry, and the product beside it
    size = 256 * 256 * 4
    assert size <= compute_live_bytes(chain, x, w) <= 3 * size
    assert compute_live_bytes(lambda x: (jnp.tanh(x) + 1).sum(), x) == 4


def test_pictures_cost_a_fifth_of_a_step():
    sdxl = job(VITONHD)
    assert sdxl.encodes and sdxl.vae is not None
    height, width, _ = sdxl.diffusion.canvas.shape
    count = count_unet_flops(sdxl.unet, height, width)
    step = count.total.step + compute_recomputed_flops(count, "block")
    assert count_encoding_flops(sdxl.diffusion, sdxl.vae) / step == pytest.approx(0.22, abs=0.005)


def test_pictures_are_encoded_where_the_config_has_no_latents(capsys):
    tiny = job(VITONHD, TINY, NO_REMAT)
    pictures, latents = (
        make_plan(job(VITONHD, TINY, NO_REMAT, *flags), parse_topology("a800-4"))
        for flags in ((), ("--config.data.latents=latents",))
    )
    assert pictures.executed_flops == latents.executed_flops + pictures.frozen_flops
    assert pictures.model_flops == latents.model_flops and latents.frozen_flops == 0
    vae = sum(leaf.size for leaf in jax.tree.leaves(get_vae_shapes(VAES["sdxl"])))
    assert pictures.memory["frozen VAE"] == 4 * vae and "frozen VAE" not in latents.memory
    encoding = compute_encoding_bytes(tiny.diffusion, VAES["sdxl"], 2, "bfloat16")
    held = latents.memory["activations or gradients"]
    assert pictures.memory["encoding, beyond the activations"] == max(0, encoding - held)
    # 128 channels of bfloat16 at full resolution, and what a layer makes of them
    assert 2 <= encoding / (2 * 1024 * 768 * 128 * 2) <= 5
    assert main(["plan", "--config", VITONHD, "--topology", "a800-4", TINY, NO_REMAT]) == 0
    said = capsys.readouterr().out
    assert "from pictures: the VAE's encoder adds" in said
    assert "`omfa sample` in bfloat16, 1 at once on one device" in said


def test_a_config_without_data_counts_as_one_on_latents(tmp_path, caplog):
    assert not job("configs/base.py", TINY).encodes
    assert not job("configs/base.py", f"--config.data.mixture={tmp_path / 'none'}:1").encodes
    assert "planned for stored latents, for the mixture cannot be read" in caplog.text


def test_the_autoencoders_plan_is_the_vaes(capsys, tmp_path):
    out = tmp_path / "plan.json"
    flags = ["--topology", "h200-1", "--json", str(out)]
    assert main(["plan", "--config", TINY_VAE, *flags]) == 0
    assert "the VAE on crops of 64x64 px" in capsys.readouterr().out
    plan, tiny = json.loads(out.read_text()), job(TINY_VAE)
    assert plan["sampling"] is None and tiny.vae is not None
    params = sum(leaf.size for leaf in jax.tree.leaves(get_vae_shapes(tiny.vae)))
    assert plan["plan"]["params"] == params
    assert plan["plan"]["memory"]["parameters"] == 4 * params
    # traced and not compiled, which takes minutes
    ahead = make_job_step(tiny, jax.devices()[:1])
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, metrics = jax.eval_shape(ahead.step, ahead.state, ahead.constants, ahead.batch, key)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, ahead.state)
    assert metrics["l1"].shape == ()


def test_the_autoencoders_activations_are_the_compilers():
    shapes, crops = get_vae_shapes(VAE), (8, 64)

    def loss(params, images):
        mean, logvar = encode_posterior(VAE, params, images)
        return (decode(VAE, params, mean + jnp.exp(logvar)) ** 2).sum()

    images = Shape((crops[0], crops[1], crops[1], 3), jnp.float32)
    compiled = compiled_bytes(jax.grad(loss), shapes, images)
    assert count_vae_residuals(VAE, crops, "float32", False) == pytest.approx(compiled, rel=0.35)
    half = count_vae_residuals(VAE, crops, "float32", True)
    assert 0.3 < half / count_vae_residuals(VAE, crops, "float32", False) < 0.9


def test_sampling_keeps_the_weights_and_a_copy_of_some_in_bfloat16():
    tiny = job(VITONHD, TINY, "--config.model.vae=tiny")
    diffusion, unet = tiny.diffusion, tiny.unet
    in_half, in_full = (
        compute_sampling_memory(
            diffusion, unet, VAES["tiny"], 2, guidance=True, dtype=dtype, **FUSED
        )
        for dtype in ("bfloat16", "float32")
    )
    shapes = list(flatten(get_unet_shapes(unet)))
    params = sum(leaf.size for _, leaf in shapes)
    # transformer blocks are cast one at a time, inside the scan over them
    loose = sum(leaf.size for path, leaf in shapes if "transformer_blocks" not in path)
    assert in_half.cast_bytes == 2 * loose and loose < params and in_full.cast_bytes == 0
    assert in_half.weights_bytes == in_full.weights_bytes > 4 * params
    assert in_half.unet_bytes < in_full.unet_bytes
    largest = max(in_half.unet_bytes, in_half.vae_bytes)
    assert in_half.peak_bytes == in_half.weights_bytes + in_half.cast_bytes + largest


def test_storage_traffic_of_a_save_a_restore_and_a_start():
    state, local = {"params": Shape((16, 1000), jnp.float32)}, 4 * 1000
    topology = parse_topology("h200-16")
    amounts = {"weights_bytes": 10_000, "batch_bytes": 600, "rate": 100.0}
    whole = compute_storage_traffic(state, local, topology, parts=16, **amounts)
    assert (whole.hosts, whole.checkpoint_bytes, whole.save_seconds) == (2, 64_000, 320.0)
    # half of the shards on each host
    assert (whole.restore_bytes, whole.restore_seconds) == (32_000, 320.0)
    assert whole.start_seconds == (10_000 + 300) / 100
    # a replica on each host, of eight shards: each reads everything
    twice = compute_storage_traffic(state, 2 * local, topology, parts=8, **amounts)
    assert twice.restore_bytes == 64_000
    assert parse_topology("v5litepod-256").hosts == 64 and parse_topology("v4-32").hosts == 4
    assert parse_topology("gb200-72").hosts == 18 and parse_topology("h200-1").hosts == 1


def test_a_machine_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(EXAMPLE))
    mine = parse_topology(str(file))
    assert (mine.devices, mine.group, mine.platform, mine.hosts) == (4, 4, "cuda", 1)
    assert mine.chip.bf16_flops == 154.8e12 and mine.chip.memory_bytes == 51.5e9
    assert main(["plan", "--config", VITONHD, "--topology", str(file), TINY, NO_REMAT]) == 0
    assert "four RTX A6000: 4 GPUs in 1 node of 4" in capsys.readouterr().out
    file.write_text(json.dumps(EXAMPLE | {"devices": 8, "amd": True}))
    assert parse_topology(str(file)).platform == "rocm" and parse_topology(str(file)).hosts == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("{", "not JSON"),
        ("[1]", "expected one JSON object"),
        ({"devices": 0}, "devices: expected an integer from 1"),
        ({"memory_gb": "48"}, "memory_gb: expected a number above 0"),
        ({"bf16_tflops": float("nan")}, "bf16_tflops: expected a number"),
        ({"memory": 48}, "unknown field 'memory'"),
        ({"bf16_tflops": None}, "bf16_tflops: expected a number above 0"),
        ({"devices": 6}, "6 devices are not nodes of 4"),
        ({"name": ""}, "name: expected what to call the machine"),
        ({"name": "a\nb"}, "name: expected one printable line"),
    ],
)
def test_a_bad_machine_file_is_refused(tmp_path, change, word):
    file = tmp_path / "mine.json"
    file.write_text(change if isinstance(change, str) else json.dumps(EXAMPLE | change))
    with pytest.raises(OmfaError, match=word) as caught:
        parse_topology(str(file))
    assert "\n" not in str(caught.value)


def test_a_machine_files_missing_fields_are_named(tmp_path):
    file = tmp_path / "mine.json"
    for name in EXAMPLE:
        file.write_text(json.dumps({key: EXAMPLE[key] for key in EXAMPLE if key != name}))
        if name == "network_gb_per_s":
            # one node has no network
            assert parse_topology(str(file)).chip.inter_node_bandwidth == 32e9
        else:
            with pytest.raises(OmfaError, match=f"missing field '{name}'"):
                parse_topology(str(file))
    with pytest.raises(OmfaError, match=r"none\.json: No such file"):
        parse_topology(str(tmp_path / "none.json"))


def test_new_rows_of_the_hardware_table():
    assert (
        parse_topology("a100_40gb-8").chip.memory_bytes
        < parse_topology("a100-8").chip.memory_bytes / 1.9
    )
    one = parse_topology("v5e-1")
    assert (one.name, one.devices, one.hosts, one.describe()) == (
        "v5litepod-1",
        1,
        1,
        "1 chip (1x1)",
    )


def test_a_compilers_failure_is_one_line():
    text = (
        "INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot = bf16[1920,1280]"
        ' dot(%a), metadata={op_name="jit(step)/up_blocks.0/conv_shortcut"}\nSymbolic\nmore'
    )
    said = str(describe_compiler_error(jax.errors.JaxRuntimeError(text)))
    assert "\n" not in said and "(layer jit(step)/up_blocks.0/conv_shortcut)" in said
    full = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G\nmore"
    assert str(describe_compiler_error(jax.errors.JaxRuntimeError(full))).startswith("does not fit")
