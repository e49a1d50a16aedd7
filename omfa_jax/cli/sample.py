"""`omfa sample`: generate images with a trained model."""

import argparse
import dataclasses
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.flags import PERSON_INDEX_TYPE, int_between, parse_any_path_text
from omfa_jax.cli.sampler_flags import (
    SAMPLE_DTYPES,
    add_checkpoint_flags,
    add_sampler_flags,
    make_sampler_settings,
)
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.tasks import COMPONENTS, Task

if TYPE_CHECKING:
    from omfa_jax.sampling.prepared_tasks import PreparedTask, SampleRequest
    from omfa_jax.sampling.sampler import Sampler

log = logging.getLogger(__name__)

TASKS = ("try_on", "try_off", "transfer", "turntable")
TURNTABLE_VIEWS = 8
# a list has flags of its own
PAIRS_MODULE, PAIRS_FLAGS = "omfa_jax.cli.sample_list", ("--pairs", "--persons")
# flags that name the inputs: (flag, metavar, help)
INPUTS = (
    ("--garment", "IMAGE", "in-shop photo of the garment"),
    ("--person", "IMAGE", "photo of the person"),
    ("--face", "IMAGE", "face image (default: cropped from --person)"),
    (
        "--pose",
        "FILE",
        "body (.npz), pose map, name of a library pose (omfa data poses --list), or photo whose"
        " pose --person takes (default: beside --person, or as in the photo)",
    ),
    (
        "--keypoints",
        "JSON",
        "keypoints of --person, to crop the face and fit the body (default: beside it, or"
        " found in the photo)",
    ),
    ("--parse", "PNG", "parse map of --person, to crop the face (default: beside it)"),
    ("--source-person", "IMAGE", "transfer: photo of the person who wears the garment"),
    ("--source-face", "IMAGE", "transfer: face image (default: cropped from --source-person)"),
    ("--source-pose", "FILE", "transfer: pose of --source-person (default: as for --pose)"),
    ("--source-keypoints", "JSON", "transfer: keypoints of --source-person (default: beside it)"),
    ("--source-parse", "PNG", "transfer: parse map of --source-person (default: beside it)"),
    ("--smplx-model", "FILE", "SMPL-X model (.npz) to render --pose with (default: the free body)"),
)
SWITCHES = (
    ("--null-pose", "let the model choose the pose, whatever lies beside --person"),
    ("--no-crop", "do not crop a photo in which the person is small; letter-box all of it"),
    ("--native-size", "write people as generated, at the model's size, not in their photo's frame"),
)
# the flags that each task cannot do without
REQUIRED_INPUTS = {
    "try_on": ("garment",),
    "try_off": ("person",),
    "transfer": ("source_person",),
    "turntable": ("garment",),
}


def choose_module(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the module for the arguments after `omfa sample`, and the arguments left for it."""
    is_list = any(word.split("=")[0] in PAIRS_FLAGS for word in arguments)
    return PAIRS_MODULE if is_list else __name__, arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa sample`."""
    parser.epilog = (
        "`omfa sample --pairs --help`: a picture for each pair of a list, by the thousand."
    )
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add(
        "--task",
        default=TASKS[0],
        metavar="TASK",
        help=f"{' | '.join(TASKS)}, or any other task of the model's config",
    )
    add(
        "--out",
        default="samples",
        type=parse_any_path_text,
        metavar="DIR",
        help="folder for the generated images, TASK.json with their settings, and sheet.png",
    )
    for flag, metavar, text in INPUTS:
        add(flag, type=parse_any_path_text, metavar=metavar, help=text)
    for flag, whose in (
        ("--person-index", "--keypoints"),
        ("--source-person-index", "--source-keypoints"),
    ):
        add(
            flag,
            type=PERSON_INDEX_TYPE,
            metavar="N",
            help=f"person of {whose} with several, counted from 0 (default: the largest)",
        )
    for flag, text in SWITCHES:
        add(flag, action="store_true", help=text)
    add(
        "--views",
        type=int_between(1, 1000),
        default=TURNTABLE_VIEWS,
        help="turntable: number of views",
    )
    add_sampler_flags(parser)
    add(
        "--dtype",
        default="auto",
        help="compute dtype: float32, bfloat16, or auto (bfloat16 on a GPU or TPU, else float32)",
    )


def run(options: argparse.Namespace) -> None:
    """Generate images, and write them with their settings and a side-by-side sheet."""
    if options.task in REQUIRED_INPUTS:
        require_inputs(options, REQUIRED_INPUTS[options.task], needs_face=options.task != "try_off")
    if options.task == "turntable" and not (options.pose or options.person):
        raise OmfaError("--task turntable needs --pose, or --person whose body can be fitted")
    if options.dtype not in SAMPLE_DTYPES:
        raise make_unknown_name_error("dtype (--dtype)", options.dtype, SAMPLE_DTYPES)
    out = require_any_writable_dir(options.out, "--out")
    if options.task in REQUIRED_INPUTS:
        require_inputs_kept(options, out, ("garment", *TASKS))

    # after the checks of the flags: loading JAX takes seconds
    from omfa_jax.model_loading import load_model, read_settings
    from omfa_jax.sampling.prepared_tasks import prepare_task
    from omfa_jax.sampling.sample_files import StepBar, can_report_steps, write_results
    from omfa_jax.sampling.sampler import Sampler

    settings = make_sampler_settings(options)
    # the inputs before the weights, which take minutes for SDXL
    described = read_settings(options.checkpoint)
    row = None
    if options.task not in REQUIRED_INPUTS:
        row = find_row(described.tasks, options, out)
    prepared = prepare_task(options.task, row, described, make_request(options))
    model = load_model(options.checkpoint, ema=not options.no_ema)
    bar = StepBar(settings.steps, prepared.calls)
    on_step = bar if can_report_steps() else None
    if on_step is None:
        log.info("the progress bar waits for the end: JAX's compilation cache is on")
    sampler = Sampler(model, settings, dtype=options.dtype, on_step=on_step)
    with bar:
        results = prepared.generate(sampler, options.seed)
    write_results(
        out,
        options.task,
        prepared,
        results,
        collect_facts(options, sampler, prepared),
        # in cells of the person's slot, the second of COMPONENTS
        cell_px=model.settings.slots_px[1],
        native_size=options.native_size,
    )


def find_row(tasks: Sequence[Task], options: argparse.Namespace, out: AnyPath) -> Task:
    """Return the row of the model's task table that --task names; check its inputs' flags."""
    row = next((task for task in tasks if task.name == options.task), None)
    if row is None:
        raise make_unknown_name_error(
            "task (--task)", options.task, {*TASKS, *(task.name for task in tasks)}
        )
    clean = [name for name in COMPONENTS if name not in row.noised]
    # a face can be cropped from --person, also where the person is generated
    needed = [name for name in clean if name != "face"]
    require_inputs(options, needed, needs_face="face" in clean)
    for name in row.noised:
        # the photo of a generated person gives the face, and the frame of the result
        if name != "person" and getattr(options, name) is not None:
            log.warning("--%s is not used: task %s generates it", name, row.name)
    require_inputs_kept(options, out, (*row.noised, row.name))
    return row


def require_inputs(options: argparse.Namespace, needed: Sequence[str], *, needs_face: bool) -> None:
    """Raise an OmfaError that names the first flag that the task needs and that is not given."""
    for name in needed:
        if getattr(options, name) is None:
            raise OmfaError(f"--task {options.task} needs --{name.replace('_', '-')}")
    if needs_face and not (options.face or options.person):
        raise OmfaError(f"--task {options.task} needs --face, or --person to crop it from")


def require_inputs_kept(options: argparse.Namespace, out: AnyPath, results: Sequence[str]) -> None:
    """Raise an OmfaError if an input image would be overwritten by one of the results."""
    written = re.compile(
        rf"({'|'.join(results)})(_\d+\.png|\.json)|sheet\.png|(source_)?person_body\.npz"
    )
    for flag, path in vars(options).items():
        if isinstance(path, str) and written.fullmatch(to_path(path).name):
            require_disjoint(out / to_path(path).name, {f"--{flag.replace('_', '-')}": path})


def make_request(options: argparse.Namespace) -> "SampleRequest":
    """Return what the flags ask for."""
    from omfa_jax.sampling.photo_files import PersonFiles
    from omfa_jax.sampling.prepared_tasks import SampleRequest

    def files(prefix: str) -> PersonFiles:
        names = ("person", "face", "pose", "keypoints", "parse")
        paths = [getattr(options, f"{prefix}{name}") for name in names]
        index = getattr(options, f"{prefix}person_index")
        flags = f"--{prefix.replace('_', '-')}"
        return PersonFiles(*paths, person_index=index, prefix=flags)

    return SampleRequest(
        garment=options.garment,
        person=files(""),
        source=files("source_"),
        smplx_model=options.smplx_model,
        crop=not options.no_crop,
        null_pose=options.null_pose,
        views=options.views,
    )


def collect_facts(
    options: argparse.Namespace, sampler: "Sampler", prepared: "PreparedTask"
) -> dict[str, Any]:
    """Return what the images were made with, for TASK.json."""
    from omfa_jax import __version__

    inputs = {"garment": options.garment, "smplx_model": options.smplx_model}
    return {
        "omfa_jax": __version__,
        "task": options.task,
        "seed": options.seed,
        "checkpoint": options.checkpoint,
        "ema": not options.no_ema,
        "sampler": dataclasses.asdict(sampler.settings),
        "dtype": sampler.dtype,
        "null_pose": options.null_pose,
        "crop": not options.no_crop,
        "native_size": options.native_size,
        "inputs": {name: path for name, path in inputs.items() if path} | prepared.files,
    }
