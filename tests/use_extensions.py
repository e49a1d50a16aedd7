"""Use every extension of docs/extending.md, in a process whose package has them.

python use_extensions.py WORKDIR RESULTS.json
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

import omfa_jax
from omfa_jax.cli.main import main, make_parser
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.core.tasks import make_noised_table

CONFIGS = Path(omfa_jax.__file__).parents[1] / "configs"
HEIGHT_PX, WIDTH_PX = 128, 96


def make_photo(grey: int) -> np.ndarray:
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), grey, np.uint8)
    image[20:60, 30:60] = (200, 100, 50)
    return image


def write_raw(root: Path) -> Path:
    """Write a photo with its garment to two splits, and one without a garment."""
    for split, name in (("train", "00001"), ("test", "00002")):
        write_image(root / split / "images" / f"{name}.jpg", make_photo(90))
        write_image(root / split / "garments" / f"{name}.jpg", make_photo(255))
    write_image(root / "train" / "images" / "00003.jpg", make_photo(60))
    return root


def use_data_set(workdir: Path) -> dict:
    from omfa_jax.data.builders.build_records import BUILDERS, build_records
    from omfa_jax.data.builders.raw_layouts import resolve_dataset
    from omfa_jax.data.records.record_schema import open_records

    raw, out = write_raw(workdir / "raw"), workdir / "records"
    detected = resolve_dataset(raw, None, BUILDERS)
    report = build_records(raw, out)
    records = open_records(out, "train")
    return {
        "detected": detected,
        "splits": report.built_per_split,
        "warnings": [line for line in report.warnings if "left out" in line],
        "keys": [records[i].key for i in range(len(records))],
        "categories": [records[i].category for i in range(len(records))],
        "help": " ".join(format_help("data", "build").split()),
    }


def format_help(command: str, action: str) -> str:
    """Return the help of a sub-command."""
    actions = make_parser(command)._actions
    return next(a.choices[action].format_help() for a in actions if a.choices)


def use_metric(workdir: Path) -> dict:
    from omfa_jax.evals.scores_file import read_scores

    for name, grey in (("a", 110), ("b", 100)):
        write_image(workdir / "gt" / f"{name}.png", np.full((64, 48, 3), 100, np.uint8))
        write_image(workdir / "pred" / f"{name}.png", np.full((64, 48, 3), grey, np.uint8))
    out = workdir / "scores.json"
    folders = ["--pred", str(workdir / "pred"), "--gt", str(workdir / "gt")]
    status = main(["eval", *folders, "--protocol", "edgewise", "--out", str(out)])
    assert status == 0, "omfa eval failed"
    return {name: list(values) for name, values in read_scores(out).per_image.values.items()}


def use_size() -> dict:
    import jax

    from omfa_jax.models import get_unet_config, get_unet_shapes
    from omfa_jax.parallel.mesh import MESH_AXES
    from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings

    config = get_unet_config("ml")
    shapes = get_unet_shapes(config)
    sizes = tuple(8 if axis == "fsdp" else 1 for axis in MESH_AXES)
    types = (jax.sharding.AxisType.Auto,) * len(sizes)
    mesh = jax.make_mesh(sizes, MESH_AXES, axis_types=types)
    shardings = make_param_shardings(UNET_RULES, shapes, mesh)
    leaves = list(zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True))
    total = sum(math.prod(leaf.shape) for leaf, _ in leaves)
    sharded = sum(math.prod(leaf.shape) for leaf, sharding in leaves if any(sharding.spec))
    return {
        "widths": list(config.block_channels),
        "parameters": total,
        "sharded_fraction": sharded / total,
    }


def use_chip() -> dict:
    from omfa_jax.parallel.hardware import find_chip
    from omfa_jax.parallel.topology import parse_topology

    topology = parse_topology("h800-8")
    found = find_chip("NVIDIA H800 80GB HBM3")
    assert found is not None
    return {
        "devices": topology.devices,
        "platform": topology.platform,
        "peak_flops": topology.chip.bf16_flops,
        "found": found.device_kind,
    }


def use_task() -> dict:
    from omfa_jax.cli.config_lib import load_config, make_diffusion_settings
    from omfa_jax.models.presets import get_vae_config

    config = load_config(CONFIGS / "my_tasks.py")
    settings = make_diffusion_settings(config, get_vae_config(config.model.vae))
    names = [task.name for task in settings.tasks]
    table = make_noised_table(settings.tasks)
    return {"names": names, "noised": table[names.index("joint")].tolist()}


def use_body_source(workdir: Path) -> dict:
    from omfa_jax.body.body_file import load_body, read_npz

    raw, out = workdir / "photos", workdir / "my_tool"
    write_image(raw / "train" / "image" / "00001.jpg", make_photo(90))
    out.mkdir()
    pose = np.zeros((22, 3))
    # bodies are upright with y up; a camera looks at them with y down
    pose[0, 0] = np.pi
    found = {"pose": pose.tolist(), "betas": [0.0] * 10, "transl": [0, 0.2, 3]}
    found |= {"focal": [300, 300], "center": [WIDTH_PX / 2, HEIGHT_PX / 2]}
    (out / "00001.json").write_text(json.dumps(found))
    status = main(["data", "bodies", "--from", "my_tool", "--in", str(out), "--raw", str(raw)])
    assert status == 0, "omfa data bodies failed"
    assert main(["data", "poses", "--raw", str(raw)]) == 0, "omfa data poses failed"
    body = raw / "train" / "smplx" / "00001.npz"
    params, camera = load_body(body)
    pose_map = read_rgb(raw / "train" / "pose" / "00001.png")
    return {
        "transl": params.transl.tolist(),
        "focal_px": list(camera.focal_px),
        "source": str(read_npz(body, "body file")["source"]),
        "covered": float(pose_map.any(axis=-1).mean()),
    }


if __name__ == "__main__":
    place, results = Path(sys.argv[1]), Path(sys.argv[2])
    found = {
        "package": omfa_jax.__file__,
        "data set": use_data_set(place),
        "metric": use_metric(place),
        "size": use_size(),
        "chip": use_chip(),
        "task": use_task(),
        "body": use_body_source(place),
    }
    results.write_text(json.dumps(found))
