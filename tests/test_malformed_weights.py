"""Weight files that are not what they should be: each is said for what it is, none traces back."""

import re

import numpy as np
import pytest
from malformed_weights import make_byte_ways, make_tensor_ways, write_contiguous
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, torch_unet, torch_vae

import convert_weights

SEED = 17
BYTE_WAYS = make_byte_ways(np.random.default_rng(SEED))
TENSOR_WAYS = make_tensor_ways(np.random.default_rng(SEED))


@pytest.fixture(scope="module")
def tensors():
    return in_one_file(get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE)))


@pytest.fixture(scope="module")
def sound(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "sdxl.safetensors"
    write_contiguous(path, tensors)
    return path.read_bytes()


def import_fails(path, capsys):
    """Import a file, which must fail; return the lines said. Nothing is left behind."""
    assert convert_weights.main(["import", str(path), "--out", f"{path.parent}/out"]) == 2
    printed, said = capsys.readouterr()
    assert not printed and said.startswith("convert_weights: ") and "Traceback" not in said
    assert said.count("convert_weights: ") == 1 and [p.name for p in path.parent.iterdir()] == [
        path.name
    ]
    return said.removeprefix("convert_weights: ").splitlines()


@pytest.mark.parametrize("way", BYTE_WAYS)
def test_files_with_other_bytes_are_one_line(sound, tmp_path, capsys, record_property, way):
    damage, words = BYTE_WAYS[way]
    path = tmp_path / "sdxl.safetensors"
    path.write_bytes(sound)
    damage(path)
    lines = import_fails(path, capsys)
    record_property("said", "\n".join(lines))
    assert len(lines) == 1 and str(path) in lines[0] and re.search(words, lines[0]), lines
    assert all(character.isprintable() for character in lines[0])


@pytest.mark.parametrize("way", TENSOR_WAYS)
def test_files_with_other_tensors_are_one_report(tensors, tmp_path, capsys, record_property, way):
    change, words = TENSOR_WAYS[way]
    path = tmp_path / "sdxl.safetensors"
    write_contiguous(path, change(tensors))
    lines = import_fails(path, capsys)
    record_property("said", "\n".join(lines))
    # one line, or a list of at most ten of a kind with the count and one piece of advice
    assert len(lines) == 1 or lines[0] == "the weights do not match the network:"
    assert len(lines) < 30 and len(set(lines)) == len(lines)
    assert re.search(words, "\n".join(lines)), lines


@pytest.mark.parametrize("suffix", ["", ".ckpt", ".gguf", ".safetensors.part"])
def test_the_content_counts_and_not_the_name(sound, tmp_path, capsys, suffix):
    path = tmp_path / f"sdxl{suffix}"
    path.write_bytes(sound)
    assert convert_weights.main(["import", str(path), "--out", f"{tmp_path}/out"]) == 0
    path.write_bytes(b"GGUF\x03\0\0\0")
    assert convert_weights.main(["import", str(path), "--out", f"{tmp_path}/other"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "it is a GGUF file" in said
