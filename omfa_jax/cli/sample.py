"""`omfa sample`: pictures from pictures."""

import argparse
import logging
import re
from pathlib import Path

import numpy as np

from omfa_jax.cli.flags import SEED, of, path_text, whole
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import require_writable_dir
from omfa_jax.core.folders import require_apart
from omfa_jax.core.images import from_signed, write_image
from omfa_jax.diffusion.sample import SAMPLER
from omfa_jax.diffusion.steppers import STEPPERS
from omfa_jax.sampling.inputs import SlotFitter, load_face, load_pose_map, render_pose

log = logging.getLogger(__name__)

TASKS = ("try_on", "try_off", "transfer", "turntable")
TURNTABLE_VIEWS = 8
DTYPES = ("auto", "float32", "bfloat16")
# the names of what is written
RESULTS = re.compile(rf"(garment|{'|'.join(TASKS)})_\d+\.png|sheet\.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa sample`."""
    parser.add_argument(
        "--checkpoint", required=True, type=path_text, metavar="DIR", help="workdir, step or model"
    )
    parser.add_argument("--task", required=True, metavar="TASK", help=" | ".join(TASKS))
    parser.add_argument(
        "--out", required=True, type=path_text, metavar="DIR", help="pictures and sheet.png go here"
    )
    parser.add_argument(
        "--garment", type=path_text, metavar="IMAGE", help="in-shop photo of the garment"
    )
    parser.add_argument("--person", type=path_text, metavar="IMAGE", help="photo of the person")
    parser.add_argument(
        "--face", type=path_text, metavar="IMAGE", help="face; default: cut out of --person"
    )
    parser.add_argument(
        "--pose", type=path_text, metavar="FILE", help="pose map, or SMPL-X parameters (.npz)"
    )
    parser.add_argument(
        "--source-person", type=path_text, metavar="IMAGE", help="transfer: who wears the garment"
    )
    parser.add_argument(
        "--source-face", type=path_text, metavar="IMAGE", help="default: cut out of --source-person"
    )
    parser.add_argument(
        "--source-pose", type=path_text, metavar="FILE", help="transfer: the source's pose"
    )
    parser.add_argument(
        "--source-keypoints", type=path_text, metavar="JSON", help="of --source-person"
    )
    parser.add_argument(
        "--source-parse", type=path_text, metavar="PNG", help="parse map of --source-person"
    )
    parser.add_argument(
        "--keypoints", type=path_text, metavar="JSON", help="OpenPose keypoints of --person"
    )
    parser.add_argument("--parse", type=path_text, metavar="PNG", help="parse map of --person")
    parser.add_argument(
        "--smplx-model", type=path_text, metavar="FILE", help="SMPL-X .npz; default: the free body"
    )
    parser.add_argument(
        "--views", type=whole(1, 1000), default=TURNTABLE_VIEWS, help="turntable: how many"
    )
    parser.add_argument("--steps", type=of(SAMPLER["steps"]), default=50, help="denoising steps")
    parser.add_argument("--sampler", default="ddim", metavar="NAME", help=" | ".join(STEPPERS))
    parser.add_argument("--guidance", type=of(SAMPLER["guidance"]), default=2.0)
    parser.add_argument(
        "--guidance-rescale",
        type=of(SAMPLER["guidance_rescale"]),
        default=0.0,
        metavar="PHI",
        help="0 to 1; 0 = off",
    )
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--raw-weights", action="store_true", help="not the EMA")
    parser.add_argument(
        "--dtype",
        default="auto",
        help="float32 or bfloat16: what the networks compute in; default: bfloat16 on a GPU or TPU",
    )


def run(options: argparse.Namespace) -> None:
    """Generate, write the pictures and a side-by-side sheet."""
    if options.task not in TASKS:
        raise unknown("task (--task)", options.task, TASKS)
    needed = {
        "try_on": ("garment",),
        "try_off": ("person",),
        "transfer": ("source_person",),
        "turntable": ("garment", "pose"),
    }
    for name in needed[options.task]:
        if getattr(options, name) is None:
            raise OmfaError(f"--task {options.task} needs --{name.replace('_', '-')}")
    if options.task != "try_off" and not (options.face or options.person):
        raise OmfaError(f"--task {options.task} needs --face, or --person to cut it from")
    if options.dtype not in DTYPES:
        raise unknown("type (--dtype)", options.dtype, DTYPES)
    out = require_writable_dir(options.out, "--out")
    require_kept(options, out)

    from omfa_jax.diffusion.sample import SamplerSettings
    from omfa_jax.sampling.generate import Sampler

    settings = SamplerSettings(
        options.steps, options.guidance, options.sampler, options.guidance_rescale
    )
    bundle = load_checkpoint(options.checkpoint, ema=not options.raw_weights)
    sampler = Sampler(bundle, settings, dtype=options.dtype)
    columns = GENERATE[options.task](sampler, SlotFitter(bundle.settings), options)
    write_columns(out, columns, bundle.settings.slots_px[1])


def require_kept(options: argparse.Namespace, out: Path) -> None:
    """Raise an OmfaError if a picture that is read has a name that the results would take."""
    for flag, path in vars(options).items():
        if isinstance(path, str) and RESULTS.fullmatch(Path(path).name):
            require_apart(out / Path(path).name, {f"--{flag.replace('_', '-')}": path})


def load_checkpoint(path: str, *, ema: bool = True):
    """Return the bundle at `path`: a training workdir, one of its steps, or a model folder."""
    from omfa_jax.sampling.load import load_folder
    from omfa_jax.train.load import load_bundle

    folder = Path(path)
    if (folder / "checkpoints").is_dir() or folder.parent.name == "checkpoints":
        bundle, step = load_bundle(folder, ema=ema)
        log.info("%s: step %d", path, step)
        return bundle
    return load_folder(folder)


def _try_on(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.tasks import try_on

    garment = slots.load_image("garment", options.garment, "--garment")
    face = slots.fit_image("face", _face(options))
    pose = _pose(slots, options.pose, options)
    person = try_on(sampler, garment, face, pose, seed=options.seed)
    return {"garment": garment, "face": face, "pose": pose, "try_on": person}


def _try_off(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.tasks import try_off

    person = slots.load_image("person", options.person, "--person")
    face = slots.fit_image("face", _face(options, needed=False))
    pose = _pose(slots, options.pose, options)
    garment = try_off(sampler, person, face, pose, seed=options.seed)
    return {"person": person, "face": face, "pose": pose, "try_off": garment}


def _transfer(sampler, slots: SlotFitter, options):
    from omfa_jax.sampling.tasks import transfer

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
        ),
    )
    source_pose = _pose(slots, options.source_pose, options)
    face, pose = slots.fit_image("face", _face(options)), _pose(slots, options.pose, options)
    garment, person = transfer(
        sampler, source, source_face, source_pose, face, pose, seed=options.seed
    )
    return {"source": source, "garment": garment, "face": face, "pose": pose, "transfer": person}


def _turntable(sampler, slots: SlotFitter, options):
    from omfa_jax.body.params_file import load_body_file
    from omfa_jax.body.poses import turntable as turned
    from omfa_jax.sampling.tasks import turntable

    if Path(options.pose).suffix != ".npz":
        raise OmfaError(
            f"--task turntable needs SMPL-X parameters (.npz) as --pose, got {options.pose}:"
            " a picture cannot be turned"
        )
    params, camera = load_body_file(options.pose)
    bodies = turned(params, options.views)
    maps = [render_pose(p, camera, slots.pose_style, options.smplx_model) for p in bodies]
    poses = np.concatenate([slots.fit_pose_map(image) for image in maps])
    garment = slots.load_image("garment", options.garment, "--garment")
    face = slots.fit_image("face", _face(options))
    people = turntable(sampler, garment, face, poses, seed=options.seed)
    return {"garment": garment, "face": face, "pose": poses, "turntable": people}


GENERATE = {
    "try_on": _try_on,
    "try_off": _try_off,
    "transfer": _transfer,
    "turntable": _turntable,
}


def _face(options, *, needed: bool = True):
    return load_face(options.person, options.face, options.keypoints, options.parse, needed=needed)


def _pose(slots: SlotFitter, path: str | None, options):
    image = load_pose_map(path, slots.pose_style, options.smplx_model)
    if image is None:
        log.warning("no pose given: the model chooses one (null pose)")
        return None
    return slots.fit_pose_map(image)


def write_columns(out: Path, columns, size: tuple[int, int]) -> None:
    """Write every generated picture and the sheet of all of them."""
    from omfa_jax.sampling.sheet import sheet

    shown = {
        name: list(images if images.dtype == np.uint8 else from_signed(images))
        for name, images in columns.items()
        if images is not None
    }
    for name, images in columns.items():
        if images is not None and images.dtype == np.uint8:
            for index, image in enumerate(images):
                write_image(out / f"{name}_{index:02d}.png", image)
    write_image(out / "sheet.png", sheet(shown, *size))
    log.info("wrote %s", out / "sheet.png")
