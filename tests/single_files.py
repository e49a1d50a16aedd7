"""Helpers that write single files of weights and compare what is read from them."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import convert_weights
from omfa_jax.weights import tensor_names

CODES = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


def write(path, tensors, metadata=None):
    save_file({key: np.ascontiguousarray(t) for key, t in tensors.items()}, path, metadata)
    return path


def write_float8(path, tensors, kind):
    """Write tensors in a dtype that safetensors' numpy functions do not know."""
    header, body = {}, b""
    for key, tensor in tensors.items():
        data = tensor.astype(getattr(ml_dtypes, kind)).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[key] = {"dtype": CODES[kind], "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def read_unet(source):
    """Return the UNet of an opened source as a PyTorch state dict."""
    return tensor_names.to_torch(tensor_names.from_torch({"u": source.components["unet"]})["u"])


def assert_unet(source, states):
    found = read_unet(source)
    assert found.keys() == states[0].keys()
    for key, tensor in states[0].items():
        np.testing.assert_array_equal(found[key], tensor, err_msg=key)


def fails(capsys, *arguments):
    """Import, which must fail; return the lines that are printed."""
    capsys.readouterr()
    assert convert_weights.main(["import", *map(str, arguments)]) == 2
    return capsys.readouterr().err.removeprefix("convert_weights: ").splitlines()
