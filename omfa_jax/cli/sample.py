"""`omfa sample`: generate images with a trained model."""

import argparse
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omfa_jax.cli.flags import PERSON_INDEX_TYPE, int_between, parse_path_text
from omfa_jax.cli.sampler_flags import (
    add_checkpoint_flags,
    add_sampler_flags,
    make_sampler_settings,
)
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.atomic_files import require_writable_dir
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.images import from_signed, write_image
from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.sampling.image_inputs import SlotFitter, load_face, render_pose

log = logging.getLogger(__name__)

TASKS = ("try_on", "try_off", "transfer", "turntable")
TURNTABLE_VIEWS = 8
DTYPES = ("auto", "float32", "bfloat16")
# flags that name the inputs: (flag, metavar, help)
INPUTS = (
    ("--garment", "IMAGE", "in-shop photo of the garment"),
    ("--person", "IMAGE", "photo of the person"),
    ("--face", "IMAGE", "face image (default: cropped from --person)"),
    ("--pose", "FILE", "pose map image, or SMPL-X parameters (.npz) to render one from"),
    ("--keypoints", "JSON", "keypoints of --person from any common tool, to crop the face"),
    ("--parse", "PNG", "parse map of --person, to crop the face"),
    ("--source-person", "IMAGE", "transfer: photo of the person who wears the garment"),
    ("--source-face", "IMAGE", "transfer: face image (default: cropped from --source-person)"),
    ("--source-pose", "FILE", "transfer: pose of --source-person, as for --pose"),
    ("--source-keypoints", "JSON", "transfer: keypoints of --source-person"),
    ("--source-parse", "PNG", "transfer: parse map of --source-person"),
    ("--smplx-model", "FILE", "SMPL-X model (.npz) to render --pose with (default: the free body)"),
)
# the flags that each task cannot do without
REQUIRED_INPUTS = {
    "try_on": ("garment",),
    "try_off": ("person",),
    "transfer": ("source_person",),
    "turntable": ("garment", "pose"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa sample`."""
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add(
        "--task",
        required=True,
        metavar="TASK",
        help=f"{' | '.join(TASKS)}, or any other task of the model's config",
    )
    add(
        "--out",
        required=True,
        type=parse_path_text,
        metavar="DIR",
        help="folder for the generated images and sheet.png",
    )
    for flag, metavar, text in INPUTS:
        add(flag, type=parse_path_text, metavar=metavar, help=text)
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
    """Generate images, and write them with a side-by-side sheet."""
    if options.task in REQUIRED_INPUTS:
        require_inputs(options, REQUIRED_INPUTS[options.task], needs_face=options.task != "try_off")
    if options.dtype not in DTYPES:
        raise make_unknown_name_error("dtype (--dtype)", options.dtype, DTYPES)
    out = require_writable_dir(options.out, "--out")
    if options.task in REQUIRED_INPUTS:
        require_inputs_kept(options, out, ("garment", *TASKS))

    # after the checks of the flags: loading JAX takes seconds
    from omfa_jax.model_loading import load_model, read_settings
    from omfa_jax.sampling.sampler import Sampler

    settings = make_sampler_settings(options)
    generate = TASK_FUNCTIONS.get(options.task)
    if generate is None:
        # a task of the model's own, or a misspelt one: asked before the weights are read
        tasks = read_settings(options.checkpoint).tasks
        generate = functools.partial(_sample_row, find_row(tasks, options, out))
    model = load_model(options.checkpoint, ema=not options.no_ema)
    sampler = Sampler(model, settings, dtype=options.dtype)
    columns = generate(sampler, SlotFitter(model.settings), options)
    # in cells of the person's slot, the second of COMPONENTS
    write_columns(out, columns, model.settings.slots_px[1])


def find_row(tasks: Sequence[Task], options: argparse.Namespace, out: Path) -> Task:
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
        used = name == "person" and "face" in clean
        if getattr(options, name) is not None and not used:
            log.warning("--%s is not used: task %s generates it", name, row.name)
    require_inputs_kept(options, out, row.noised)
    return row


def require_inputs(options: argparse.Namespace, needed: Sequence[str], *, needs_face: bool) -> None:
    """Raise an OmfaError that names the first flag that the task needs and that is not given."""
    for name in needed:
        if getattr(options, name) is None:
            raise OmfaError(f"--task {options.task} needs --{name.replace('_', '-')}")
    if needs_face and not (options.face or options.person):
        raise OmfaError(f"--task {options.task} needs --face, or --person to crop it from")


def require_inputs_kept(options: argparse.Namespace, out: Path, results: Sequence[str]) -> None:
    """Raise an OmfaError if an input image would be overwritten by one of the results."""
    written = re.compile(rf"({'|'.join(results)})_\d+\.png|sheet\.png")
    for flag, path in vars(options).items():
        if isinstance(path, str) and written.fullmatch(Path(path).name):
            require_disjoint(out / Path(path).name, {f"--{flag.replace('_', '-')}": path})


def _try_on(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.task_functions import try_on

    garment = slots.load_image("garment", options.garment, "--garment")
    face = slots.fit_image("face", _load_face(options))
    pose = _pose(slots, options.pose, options)
    person = try_on(sampler, garment, face, pose, seed=options.seed)
    return {"garment": garment, "face": face, "pose": pose, "try_on": person}


def _try_off(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.task_functions import try_off

    person = slots.load_image("person", options.person, "--person")
    # the model has been trained on people without a face image too, whose slot is white
    face = slots.fit_image("face", _load_face(options, needed=False))
    pose = _pose(slots, options.pose, options)
    garment = try_off(sampler, person, face, pose, seed=options.seed)
    return {"person": person, "face": face, "pose": pose, "try_off": garment}


def _transfer(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.task_functions import transfer

    source = slots.load_image("person", options.source_person, "--source-person")
    source_face = slots.fit_image(
        "face",
        load_face(
            options.source_person,
            options.source_face,
            options.source_keypoints,
            options.source_parse,
            prefix="--source-",
            needed=False,
            person_index=options.source_person_index,
        ),
    )
    source_pose = _pose(slots, options.source_pose, options)
    face, pose = slots.fit_image("face", _load_face(options)), _pose(slots, options.pose, options)
    garment, person = transfer(
        sampler, source, source_face, source_pose, face, pose, seed=options.seed
    )
    return {"source": source, "garment": garment, "face": face, "pose": pose, "transfer": person}


def _turntable(sampler, slots: SlotFitter, options):
    from omfa_jax.body.body_file import load_body
    from omfa_jax.body.turntable import make_turntable
    from omfa_jax.sampling.task_functions import turntable

    if Path(options.pose).suffix != ".npz":
        raise OmfaError(
            f"--task turntable needs SMPL-X parameters (.npz) as --pose, got {options.pose}:"
            " an image cannot be turned"
        )
    params, camera = load_body(options.pose)
    bodies = make_turntable(params, options.views)
    maps = [render_pose(p, camera, slots.pose_style, options.smplx_model) for p in bodies]
    poses = np.concatenate([slots.fit_pose_map(image) for image in maps])
    garment = slots.load_image("garment", options.garment, "--garment")
    face = slots.fit_image("face", _load_face(options))
    people = turntable(sampler, garment, face, poses, seed=options.seed)
    return {"garment": garment, "face": face, "pose": poses, "turntable": people}


def _sample_row(row: Task, sampler, slots: SlotFitter, options):
    given = {}
    for name in COMPONENTS:
        if name in row.noised:
            continue
        if name == "face":
            given[name] = slots.fit_image(name, _load_face(options, needed="person" in row.noised))
        else:
            given[name] = slots.load_image(name, getattr(options, name), f"--{name}")
    pose, has_pose = _pose(slots, options.pose, options), None
    canvas = pose
    if not given and pose is None:
        # a task without inputs: a null pose map tells the sampler to generate one example
        canvas, has_pose = np.zeros((1, *slots.sizes["person"], 3), np.float32), np.zeros(1, bool)
    images = sampler(row.name, given, canvas, seed=options.seed, has_pose=has_pose)
    return {**given, "pose": pose, **images}


TASK_FUNCTIONS = {
    "try_on": _try_on,
    "try_off": _try_off,
    "transfer": _transfer,
    "turntable": _turntable,
}


def _load_face(options, *, needed: bool = True):
    return load_face(
        options.person,
        options.face,
        options.keypoints,
        options.parse,
        needed=needed,
        person_index=options.person_index,
    )


def _pose(slots: SlotFitter, path: str | None, options):
    if path is None:
        log.warning("no pose given: the model chooses one (null pose)")
        return None
    return slots.load_pose(path, options.smplx_model)


def write_columns(out: Path, columns, size: tuple[int, int]) -> None:
    """Write every generated image and the sheet of all of them."""
    from omfa_jax.sampling.image_sheet import draw_sheet

    shown = {
        name: list(images if images.dtype == np.uint8 else from_signed(images))
        for name, images in columns.items()
        if images is not None
    }
    for name, images in columns.items():
        if images is not None and images.dtype == np.uint8:
            for index, image in enumerate(images):
                write_image(out / f"{name}_{index:02d}.png", image)
    write_image(out / "sheet.png", draw_sheet(shown, *size))
    log.info("wrote %s", out / "sheet.png")
