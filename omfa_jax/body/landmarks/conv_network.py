"""Run a small convolutional network in numpy: no compilation, no dependency.

The files come from `tools/bake_landmarks.py`: weights as safetensors and the graph as JSON. Arrays
are float32 (rows, columns, channels) without a batch axis. A convolution with a 1x1 window is one
matrix product; a larger window is the sum over its places.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file

Array = np.ndarray
# of the cache that a core has for itself
BAND_BYTES = 2**17


@dataclass(frozen=True)
class Step:
    """One operator: which tensors it reads (by number), which it writes, and its options."""

    op: str
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, Any]
    # tensors that no later step reads
    released: tuple[int, ...]


@dataclass(frozen=True)
class ConvNetwork:
    """A network with its weights; calling it returns {output's name: array}."""

    input: int
    input_shape: tuple[int, ...]
    outputs: Mapping[str, int]
    steps: Sequence[Step]
    weights: Mapping[int, Float32[Array, "..."]]

    def __call__(self, x: Float32[Array, "h w c"]) -> dict[str, Float32[Array, "..."]]:
        if x.shape != self.input_shape:
            raise ValueError(f"expected an input of shape {self.input_shape}, got {x.shape}")
        values = {**self.weights, self.input: x}
        for step in self.steps:
            arrays = [values[i] for i in step.inputs]
            values[step.output] = _OPERATORS[step.op](arrays, **step.options)
            for i in step.released:
                del values[i]
        return {name: values[i] for name, i in self.outputs.items()}


def load_network(folder: Path, name: str) -> ConvNetwork:
    """Return the network of NAME.json and NAME.safetensors in a folder."""
    graph = json.loads((folder / f"{name}.json").read_text())
    weights = {int(key): value for key, value in load_file(folder / f"{name}.safetensors").items()}
    kept = {*weights, *graph["outputs"].values()}
    steps: list[Step] = []
    for fields in reversed(graph["steps"]):
        op, inputs, output = fields.pop("op"), tuple(fields.pop("inputs")), fields.pop("output")
        released = tuple(i for i in dict.fromkeys(inputs) if i not in kept)
        kept.update(released)
        steps.append(Step(op, inputs, output, fields, released))
    return ConvNetwork(
        graph["input"],
        tuple(graph["input_shape"]),
        graph["outputs"],
        steps[::-1],
        {key: value.astype(np.float32) for key, value in weights.items()},
    )


def _activate(x: Array, activation: str) -> Array:
    if activation:
        np.maximum(x, 0, out=x)
    if activation == "relu6":
        np.minimum(x, 6, out=x)
    return x


def _find_padding(size: int, window: int, stride: int, padding: str) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _iterate_window(
    x: Array, window: tuple[int, int], stride: int, padding: str, fill: float = 0.0
) -> Iterator[tuple[int, int, Array]]:
    """Yield (row, column, what the window's place there sees), each of the output's size."""
    pads = [_find_padding(x.shape[i], window[i], stride, padding) for i in (0, 1)]
    if any(map(any, pads)):
        x = np.pad(x, (*pads, (0, 0)), constant_values=fill)
    height, width = ((x.shape[i] - window[i]) // stride + 1 for i in (0, 1))
    for i in range(window[0]):
        rows = slice(i, i + (height - 1) * stride + 1, stride)
        for j in range(window[1]):
            yield i, j, x[rows, j : j + (width - 1) * stride + 1 : stride]


def _convolve(x: Sequence[Array], stride: int, padding: str, activation: str) -> Array:
    image, weights = x[:2]
    window, (depth, count) = weights.shape[:2], weights.shape[2:]
    if window == (1, 1):
        seen = image[::stride, ::stride]
        y = (seen.reshape(-1, depth) @ weights[0, 0]).reshape(*seen.shape[:2], count)
    elif count < depth:
        # few outputs: multiply every pixel once, then add what the places of the window see
        each = image.reshape(-1, depth) @ weights.transpose(2, 0, 1, 3).reshape(depth, -1)
        each = each.reshape(*image.shape[:2], -1)
        y = None
        for i, j, place in _iterate_window(each, window, stride, padding):
            start = (i * window[1] + j) * count
            part = place[..., start : start + count]
            y = part.copy() if y is None else np.add(y, part, out=y)
        assert y is not None
    else:
        places = [place for _, _, place in _iterate_window(image, window, stride, padding)]
        seen = np.concatenate(places, axis=-1)
        y = seen.reshape(-1, seen.shape[-1]) @ weights.reshape(-1, count)
        y = y.reshape(*seen.shape[:2], count)
    if len(x) > 2:
        y += x[2]
    return _activate(y, activation)


def _convolve_depthwise(x: Sequence[Array], stride: int, padding: str, activation: str) -> Array:
    image, weights = x[:2]
    window, depth = weights.shape[:2], weights.shape[2]
    pads = [_find_padding(image.shape[i], window[i], stride, padding) for i in (0, 1)]
    if any(map(any, pads)):
        image = np.pad(image, (*pads, (0, 0)))
    height, width = ((image.shape[i] - window[i]) // stride + 1 for i in (0, 1))
    # columns of one remainder side by side, so that a place of the window is one run of numbers
    parts = [image[:, i::stride] for i in range(stride)]
    flat = [np.ascontiguousarray(part).reshape(len(image), -1) for part in parts]
    y = np.empty((height, width * depth), np.float32)
    y[:] = 0 if len(x) < 3 else np.tile(x[2], width)
    rows = np.tile(weights, (1, 1, width))
    # bands of rows that stay in the cache over all places of the window
    band = max(1, BAND_BYTES // y[0].nbytes)
    product = np.empty((band, y.shape[1]), np.float32)
    for top in range(0, height, band):
        out = y[top : top + band]
        for i in range(window[0]):
            lines = slice(top * stride + i, (top + len(out) - 1) * stride + i + 1, stride)
            for j in range(window[1]):
                start = j // stride * depth
                seen = flat[j % stride][lines, start : start + y.shape[1]]
                out += np.multiply(seen, rows[i, j], out=product[: len(out)])
    return _activate(y.reshape(height, width, depth), activation)


def _max_pool(x: Sequence[Array], stride: int, size: int, padding: str) -> Array:
    y = None
    for _, _, place in _iterate_window(x[0], (size, size), stride, padding, -np.inf):
        y = place.copy() if y is None else np.maximum(y, place, out=y)
    assert y is not None
    return y


def _resize_bilinear(
    x: Sequence[Array], size: Sequence[int], half_pixel: bool, align_corners: bool
) -> Array:
    rows, columns = (
        _make_resizing(old, new, half_pixel, align_corners)
        for old, new in zip(x[0].shape, size, strict=False)
    )
    y = (rows @ x[0].reshape(len(x[0]), -1)).reshape(len(rows), *x[0].shape[1:])
    return np.matmul(columns, y)


def _make_resizing(old: int, new: int, half_pixel: bool, align_corners: bool) -> Array:
    """Return the matrix (new, old) of linear interpolation along one axis."""
    at = np.arange(new) * (old / new)
    if align_corners and new > 1:
        at = np.arange(new) * ((old - 1) / (new - 1))
    elif half_pixel:
        at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(at.astype(int), old - 1)
    share = at - low
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new), low), 1 - share)
    np.add.at(matrix, (np.arange(new), np.minimum(low + 1, old - 1)), share)
    return matrix


def _depth_to_space(x: Sequence[Array], block: int) -> Array:
    height, width, channels = x[0].shape
    blocks = x[0].reshape(height, width, block, block, channels // block**2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(height * block, width * block, -1)


_OPERATORS: Mapping[str, Callable[..., Array]] = {
    "conv_2d": _convolve,
    "depthwise_conv_2d": _convolve_depthwise,
    "max_pool_2d": _max_pool,
    "add": lambda x, activation: _activate(x[0] + x[1], activation),
    "pad": lambda x, pad: np.pad(x[0], pad),
    "resize_bilinear": _resize_bilinear,
    "reshape": lambda x, shape: x[0].reshape(shape),
    "concatenation": np.concatenate,
    "logistic": lambda x: 1 / (1 + np.exp(-x[0])),
    "relu": lambda x: np.maximum(x[0], 0),
    "depth_to_space": _depth_to_space,
}
