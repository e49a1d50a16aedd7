"""Bake the pose networks that find people and their 33 landmarks in photos.

    pip download mediapipe==0.10.21 --no-deps && unzip mediapipe-*.whl
    pip install ai-edge-litert==2.3.0
    python tools/bake_landmarks.py --models mediapipe/modules --out omfa_jax/assets/landmarks

The two networks are BlazePose's detector and its `full` landmark network (Bazarevsky et al. 2020,
arXiv 2006.10204), from MediaPipe (Google, Apache-2.0). Each gives NAME.safetensors with the
weights, which are float16 in the source too, and NAME.json with the graph that
`omfa_jax/body/landmarks/conv_network.py` runs. `--fixture` writes a small synthetic photo with what
LiteRT computes for it, with which the tests compare. The same source gives the same files.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from omfa_jax.body.landmarks.person_detector import detect
from omfa_jax.body.landmarks.person_landmarks import find_landmarks
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.synthetic.world import World

# (file, its SHA-256, {output of the graph: the tensor's name in the file})
_SOURCES = {
    "pose_detection": (
        "pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        {"boxes": "Identity", "scores": "Identity_1"},
    ),
    "pose_landmark_full": (
        "pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        {
            "landmarks": "Identity",
            "score": "Identity_1",
            "mask": "Identity_2",
            "heatmaps": "Identity_3",
            "world": "Identity_4",
        },
    ),
}
_FIXTURE_SEED, _FIXTURE_PX = 3, (256, 192)
_ACTIVATIONS = {0: "", 1: "relu", 3: "relu6"}
_PADDINGS = {0: "same", 1: "valid"}
# only float16 and float32 constants are weights
_DTYPES: dict[int, Any] = {0: np.float32, 1: np.float16, 2: np.int32}


def bake(path: Path, outputs: dict[str, str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return ({tensor's number: float16 weights}, graph) of a .tflite file.

    A step of the graph has `op`, `inputs`, `output` and its options. Convolutions' weights get the
    order (rows, columns, in, out). OmfaError for an operator that conv_network.py does not run.
    """
    from ai_edge_litert import (  # pyright: ignore[reportMissingImports]
        schema_py_generated as schema,
    )

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if key[0] != "_"}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    constants = _read_constants(path, model)
    steps, used = [], {}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)].lower()
        inputs, output = [int(i) for i in operator.inputs if i >= 0], int(operator.outputs[0])
        if name in ("dequantize", "densify"):
            if output not in constants:
                constants[output] = constants[inputs[0]]
            continue
        shape = [int(side) for side in graph.tensors[output].shape]
        options, inputs = _read_options(name, operator.builtinOptions, inputs, constants, shape)
        weights = [i for i in inputs if i in constants]
        for index in weights:
            used[index] = _order(name, constants[index])
        steps.append({"op": name, "inputs": inputs, "output": output, **options})
    numbers = {graph.tensors[i].name.decode(): int(i) for i in graph.outputs}
    description = {
        "input": int(graph.inputs[0]),
        "input_shape": [int(side) for side in graph.tensors[graph.inputs[0]].shape[1:]],
        "outputs": {name: numbers[tensor] for name, tensor in outputs.items()},
        "steps": steps,
    }
    exact = {str(i): np.ascontiguousarray(array.astype(np.float16)) for i, array in used.items()}
    for i, array in used.items():
        if not (exact[str(i)].astype(np.float32) == array).all():
            raise OmfaError(f"{path}: the weights of tensor {i} are not float16")
    return exact, description


def _read_constants(path: Path, model: Any) -> dict[int, np.ndarray]:
    """Return {tensor's number: values}; LiteRT unpacks those that are stored as sparse."""
    interpreter = _make_interpreter(path)
    interpreter.invoke()
    found = {}
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data) and tensor.sparsity is None and tensor.type in _DTYPES:
            values = np.frombuffer(bytes(data), _DTYPES[tensor.type])
            found[index] = values.reshape(tensor.shape if tensor.shape is not None else ())
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # 124: DENSIFY
        if max(code.builtinCode, code.deprecatedBuiltinCode) == 124:
            found[int(operator.outputs[0])] = interpreter.get_tensor(int(operator.outputs[0]))
    return found


def _read_options(
    name: str, options: Any, inputs: list[int], constants: dict[int, np.ndarray], shape: list[int]
) -> tuple[dict[str, Any], list[int]]:
    """Return (the step's options, its inputs without those that became options)."""
    if name in ("conv_2d", "depthwise_conv_2d"):
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            raise OmfaError(f"{name} with dilation is not known")
        activation = _ACTIVATIONS[options.fusedActivationFunction]
        padding = _PADDINGS[options.padding]
        return {"stride": options.strideH, "padding": padding, "activation": activation}, inputs
    if name == "max_pool_2d":
        padding = _PADDINGS[options.padding]
        return {"stride": options.strideH, "size": options.filterHeight, "padding": padding}, inputs
    if name == "add":
        return {"activation": _ACTIVATIONS[options.fusedActivationFunction]}, inputs
    if name == "resize_bilinear":
        flags = {"half_pixel": options.halfPixelCenters, "align_corners": options.alignCorners}
        size = constants[inputs[1]].tolist()
        return {"size": size, **{key: bool(flag) for key, flag in flags.items()}}, inputs[:1]
    if name == "pad":
        return {"pad": constants[inputs[1]].tolist()[1:]}, inputs[:1]
    if name == "reshape":
        return {"shape": shape[1:]}, inputs[:1]
    if name == "concatenation":
        return {"axis": options.axis - 1 if options.axis > 0 else options.axis}, inputs
    if name == "depth_to_space":
        return {"block": options.blockSize}, inputs
    if name in ("logistic", "relu"):
        return {}, inputs
    raise OmfaError(f"operator {name} is not known")


def _order(name: str, weights: np.ndarray) -> np.ndarray:
    if name == "conv_2d" and weights.ndim == 4:
        return weights.transpose(1, 2, 3, 0)
    return weights[0] if name == "depthwise_conv_2d" and weights.ndim == 4 else weights


def _make_interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import (  # pyright: ignore[reportMissingImports]
        Interpreter,
        OpResolverType,
    )

    interpreter = Interpreter(
        str(path),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], np.float32))
    return interpreter


class LiteNetwork:
    """A .tflite file as a function, with the names of the baked graph's outputs."""

    def __init__(self, path: Path, outputs: dict[str, str]) -> None:
        self._interpreter, self._outputs = _make_interpreter(path), outputs

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        run = self._interpreter
        run.set_tensor(run.get_input_details()[0]["index"], x[None].astype(np.float32))
        run.invoke()
        indices = {one["name"]: one["index"] for one in run.get_output_details()}
        return {name: run.get_tensor(indices[key])[0] for name, key in self._outputs.items()}


def make_fixture(models: Path) -> dict[str, np.ndarray]:
    """Return a synthetic photo, both networks' outputs for it, and the landmarks."""
    networks: Any = [LiteNetwork(models / file, names) for file, _, names in _SOURCES.values()]
    world = World(_FIXTURE_SEED, *_FIXTURE_PX)
    members = world.get_person(0), world.get_garment(0), world.get_pose(0), world.get_view(0)
    photo = world.render_photo(*members).image
    found, seen = {"photo": photo}, {}

    def remember(prefix: str, network: Any) -> Any:
        def run(x: np.ndarray) -> dict[str, np.ndarray]:
            seen.update({f"{prefix}/{key}": value for key, value in network(x).items()})
            return network(x)

        return run

    (detection, *_), _ = detect(photo, remember("detector", networks[0]))
    size_px = (photo.shape[1], photo.shape[0])
    run = remember("landmarks", networks[1])
    person, doubt = find_landmarks(photo, detection, run, 1.0, size_px)
    if doubt:
        raise OmfaError("the fixture's photo shows nobody; change _FIXTURE_SEED")
    # every fourth pixel of what is large
    thinned = {"landmarks/mask": 4, "landmarks/heatmaps": 4}
    for key, value in seen.items():
        step = thinned.get(key, 1)
        found[key] = value[::step, ::step] if step > 1 else value
    for key in ("points_px", "world_m", "visibility", "presence"):
        found[key] = getattr(person, key)
    return found


def main() -> None:
    """Parse the command line and write the networks."""
    parser = argparse.ArgumentParser(
        description="Bake the pose networks from MediaPipe's files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, help="the wheel's modules/ folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--fixture", type=Path, help="file for LiteRT's outputs (.npz)")
    args = parser.parse_args()
    for name, (file, sha256, outputs) in _SOURCES.items():
        path = args.models / file
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{path}: expected SHA-256 {sha256}, found {found}")
        weights, graph = bake(path, outputs)
        origin = {
            "source": f"mediapipe==0.10.21: mediapipe/modules/{file}",
            "source_sha256": sha256,
            "license": "Apache-2.0",
            "copyright": "The MediaPipe Authors",
        }
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(args.out / f"{name}.safetensors") as temporary:
            save_file(weights, temporary)
        written = hashlib.sha256((args.out / f"{name}.safetensors").read_bytes()).hexdigest()
        with atomic_write(args.out / f"{name}.json") as temporary:
            steps = ",\n    ".join(json.dumps(step) for step in graph.pop("steps"))
            head = json.dumps(origin | {"sha256": written} | graph, indent=2)[:-2]
            temporary.write_text(f'{head},\n  "steps": [\n    {steps}\n  ]\n}}\n')
        size = (args.out / f"{name}.safetensors").stat().st_size
        print(f"{name}: {size} bytes, {sum(array.size for array in weights.values())} weights")
    if args.fixture:
        with atomic_write(args.fixture) as temporary:
            arrays: dict[str, Any] = make_fixture(args.models)
            np.savez_compressed(temporary, **arrays)


if __name__ == "__main__":
    main()
