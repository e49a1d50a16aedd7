"""Export: sharded as diffusers shards, streamed from checkpoints, loaded by diffusers itself."""

import itertools
import json
import os
import shutil

import diffusers
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_settings import make_keep_settings
from torch_models import AutoencoderKL, UNet2DConditionModel, torch
from warm_process import WarmProcess

import convert_weights
from omfa_jax.cli import config_lib
from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import VAES, get_unet_config, get_unet_shapes, get_vae_shapes
from omfa_jax.train.checkpoints import checkpoint_weights, lazy_array
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER, Checkpointer
from omfa_jax.train.state import TrainState
from omfa_jax.weights import safetensors_stream, tensor_names
from omfa_jax.weights.model_folder import save_model_folder
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.safetensors_stream import parse_size

FILE = "diffusion_pytorch_model"


def filled(shapes, seed):
    rng = np.random.default_rng(seed)
    leaves = {p: rng.standard_normal(x.shape, np.float32) for p, x in trees.flatten(shapes)}
    return trees.unflatten(leaves)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A training workdir of the tiny preset with checkpoint 3: raw parameters and an EMA."""
    folder = tmp_path_factory.mktemp("run")
    config = config_lib.load_config("configs/tiny.py")
    settings = config_lib.make_diffusion_settings(config, VAES["tiny"])
    unet_config = get_unet_config(
        "tiny", in_channels=settings.in_channels, out_channels=settings.out_channels
    )
    prompts = {
        "context": np.zeros((len(settings.tasks) + 1, 4, unet_config.context_dim), np.float32),
        "pooled": np.zeros((len(settings.tasks) + 1, unet_config.pooled_dim), np.float32),
    }
    vae = filled(get_vae_shapes(VAES["tiny"]), 0)
    save_model_folder(
        folder / MODEL_FOLDER, Model(settings, unet_config, VAES["tiny"], None, vae, prompts)
    )
    raw, ema = (filled(get_unet_shapes(unet_config), seed) for seed in (1, 2))
    state = TrainState(np.int32(3), raw, ema, {"mu": raw})
    checkpoints = Checkpointer(folder, make_keep_settings(last=1))
    checkpoints.save(3, state, {}, {})
    checkpoints.close()
    return folder


def test_sharded_folders_load_cleanly(workdir, tmp_path):
    arguments = ["export", str(workdir), "--out", str(tmp_path), "--max-shard-size", "500KB"]
    assert convert_weights.main(arguments) == 0
    files = sorted(path.name for path in (tmp_path / "unet").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"{FILE}-00001-of-{len(files):05d}.safetensors"
    sizes = [sum(t.nbytes for t in load_file(tmp_path / "unet" / f).values()) for f in files]
    assert len([size for size in sizes if size > 500_000]) < 10  # tensors of more than that
    index = json.loads((tmp_path / "unet" / f"{FILE}.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    expected = tensor_names.to_torch(restore_params(workdir)[0])
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        model, info = kind.from_pretrained(
            tmp_path / name, output_loading_info=True, low_cpu_mem_usage=False
        )
        assert not any(info[field] for field in info), info
        if name == "unet":
            state = model.state_dict()
            assert state.keys() == expected.keys() == index["weight_map"].keys()
            assert all(np.array_equal(state[key], expected[key]) for key in state)
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"


def test_shards_are_whole_and_in_order():
    rows = tensor_names.make_name_table(get_vae_shapes(VAES["tiny"]))
    shards = safetensors_stream.split_shards(rows, "fp16", 100_000)
    assert [row for shard in shards for row in shard] == rows
    sizes = [
        sum(safetensors_stream.compute_size_bytes(row.shape, "fp16") for row in shard)
        for shard in shards
    ]
    assert all(a + b > 100_000 for a, b in itertools.pairwise(sizes))
    assert all(size <= 100_000 for size, s in zip(sizes, shards, strict=True) if len(s) > 1)
    assert [len(s) for s in safetensors_stream.split_shards(rows, "fp16", 1)] == [1] * len(rows)
    assert len(safetensors_stream.split_shards(rows, "fp16", 10**9)) == 1


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_checkpoints_are_streamed(workdir, tmp_path, weights, monkeypatch):
    reads = []
    real = lazy_array._Reader._restored

    def counted(self, run):
        reads.append(run)
        return real(self, run)

    monkeypatch.setattr(lazy_array._Reader, "_restored", counted)
    monkeypatch.setattr(lazy_array, "CHUNK_BYTES", 3_000_000)
    # nobody may read a whole tree
    monkeypatch.setattr(checkpoint_weights, "read_as_numpy", None)
    out = tmp_path / "out"
    arguments = ["export", str(workdir), "--out", str(out), "--weights", weights]
    assert convert_weights.main([*arguments, "--max-shard-size", "500KB"]) == 0
    monkeypatch.undo()
    params = restore_params(workdir, ema=weights == "ema")[0]
    leaves = list(trees.flatten(params))
    assert len(reads) > 3 and sum(map(len, reads)) == len(leaves)
    found = {}
    for path in (out / "unet").glob("*.safetensors"):
        found |= load_file(path)
    expected = tensor_names.to_torch(params)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_damaged_checkpoint_is_named(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    for path in (copy / "checkpoints" / "3" / "state").rglob("d/*"):
        path.unlink()
    # a process of its own: Orbax leaves reads behind that would warn in some later test
    program = "import sys, convert_weights; sys.exit(convert_weights.main(sys.argv[1:]))"
    command = ["export", str(copy), "--weights", "raw", "--out", str(tmp_path / "out")]
    done = WarmProcess(program, command)
    _, err = done.communicate(timeout=300)
    said = [line for line in err.splitlines() if line.startswith("convert_weights: ")]
    assert done.returncode == 2 and len(said) == 1 and "3/state is damaged: " in said[0]
    assert not (tmp_path / "out").exists()


def test_damage_found_while_writing_costs_no_more_than_the_newest_step(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "run")
    steps = copy / "checkpoints"
    shutil.copytree(steps / "3", steps / "4")
    arrays = max((steps / "4/ema").glob("ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 16
    arrays.write_bytes(content)
    out = tmp_path / "out"
    assert convert_weights.main(["export", str(copy), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "(step 3, ema weights, fp32)" in said.out
    assert json.loads((out / "omfa_export.json").read_text())["step"] == 3
    # asked for by name, it is refused, and nothing is written
    command = ["export", str(steps / "4"), "--out", str(tmp_path / "other")]
    assert convert_weights.main(command) == 2
    assert "4/ema is damaged: " in capsys.readouterr().err
    assert not (tmp_path / "other").exists() and sorted(os.listdir(steps)) == ["3", "4"]


def test_which_weights_are_exported_is_said_and_not_guessed(workdir, tmp_path, capsys):
    out = tmp_path / "out"
    export = ["export", str(workdir), "--out", str(out)]
    assert convert_weights.main(export) == 0
    assert "(step 3, ema weights, fp32)" in capsys.readouterr().out
    origin = json.loads((out / "omfa_export.json").read_text())
    assert (origin["step"], origin["weights"], origin["dtype"]) == (3, "ema", "fp32")
    bare = shutil.copytree(workdir, tmp_path / "2026")
    shutil.rmtree(bare / "checkpoints/3/ema")
    export[1] = str(bare)
    assert convert_weights.main([*export, "--weights", "ema"]) == 2
    assert "has no EMA" in capsys.readouterr().err
    # a workdir's name may be a number
    assert convert_weights.main(export) == 0
    assert "(step 3, raw weights, fp32)" in capsys.readouterr().out
    (bare / "checkpoints/3/_CHECKPOINT_METADATA").unlink()
    export[1] = str(bare / "checkpoints/3")
    assert convert_weights.main(export) == 2
    assert "no complete checkpoint" in capsys.readouterr().err


def test_an_export_does_not_replace_the_runs_own_model(workdir, capsys):
    assert convert_weights.main(["export", str(workdir), "--out", str(workdir / "model")]) == 2
    assert "is not a folder that this command wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5mb", 1_500_000), (" 300 KB", 300_000)]
)
def test_sizes_are_powers_of_ten(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "GB", "0MB", "5GiB", "-1GB", ""])
def test_other_sizes_are_refused(text):
    with pytest.raises(OmfaError, match="--max-shard-size: expected a size such as 5GB"):
        parse_size(text)


def test_stream_files_are_safetensors(tmp_path):
    """Written in pieces, read by the library, and mapped back, in all three types."""
    rng = np.random.default_rng(0)
    for dtype in ("fp32", "fp16", "bf16"):
        tensors = {
            name: rng.standard_normal(shape).astype(safetensors_stream.DTYPES[dtype])
            for name, shape in {"a.b": (3, 5), "c": (1,), "d": (2, 2, 7)}.items()
        }
        pieces = [(name, part) for name, tensor in tensors.items() for part in tensor]
        path = tmp_path / f"{dtype}.safetensors"
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        safetensors_stream.write_tensor_stream(path, shapes, dtype, pieces, {"format": "pt"})
        mapped, read = safetensors_stream.mmap_tensors(path), load_file(path)
        for name, tensor in tensors.items():
            for found in (mapped[name], read[name]):
                assert found.dtype == tensor.dtype
                np.testing.assert_array_equal(found, tensor)
        assert not mapped["c"].flags.writeable and not mapped["c"].flags.owndata


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_exports_load(workdir, tmp_path, dtype, kind):
    arguments = ["export", str(workdir), "--out", str(tmp_path / "out"), "--dtype", dtype]
    assert convert_weights.main(arguments) == 0
    model = AutoencoderKL.from_pretrained(
        tmp_path / "out" / "vae", torch_dtype=kind, low_cpu_mem_usage=False
    )
    weight = load_file(workdir / "model" / "vae" / f"{FILE}.safetensors")["decoder.conv_in.weight"]
    assert torch.equal(model.decoder.conv_in.weight, torch.from_numpy(weight).to(kind))
