"""A task of `omfa sample` with its inputs read, before any weights are."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.image_like import read_image_like
from omfa_jax.sampling.person_inputs import PersonInputs, read_person
from omfa_jax.sampling.photo_files import PathLike, PersonFiles, find_files_beside, list_files
from omfa_jax.sampling.photo_people import warn_of_worn_garment
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.sampling.task_functions import transfer, try_off, try_on, turntable

# by label of the sheet: inputs, float32 in [-1, 1], or None
Columns = Mapping[str, np.ndarray | None]
Results = dict[str, UInt8[np.ndarray, "b h w 3"]]


@dataclass(frozen=True)
class SampleRequest:
    """What a task is asked for: the files, and how to read them."""

    garment: PathLike | None = None
    person: PersonFiles = field(default_factory=PersonFiles)
    source: PersonFiles = field(default_factory=PersonFiles)
    smplx_model: str | None = None
    crop: bool = True
    null_pose: bool = False
    views: int = 1


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task's inputs, and the call that generates its results from (sampler, seed).

    `columns` are the inputs by label of the sheet. `people` says whose photo's frame a result has;
    other results have the slot's. `calls` is the number of runs of the sampler, and
    `files` the persons' files, by name of the flag, with those found beside their photos. `bodies`
    are the people whose bodies are written beside the results, by name of the file.
    """

    columns: Columns
    generate: Callable[[Sampler, int], Results]
    people: dict[str, PersonInputs]
    calls: int = 1
    files: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, PersonInputs] = field(default_factory=dict)


def prepare_task(
    name: str, row: Task | None, settings: DiffusionSettings, request: SampleRequest
) -> PreparedTask:
    """Read the inputs of try_on, try_off, transfer or turntable, or of a `row` of the task table.

    Raises OmfaError as `read_person` does; a pose map of another style than the model's is refused
    before anything is computed.
    """
    slots = SlotFitter(settings)
    options = {"null_pose": request.null_pose}
    if request.garment is not None:
        shop = read_image_like(request.garment, "garment (--garment)")
        warn_of_worn_garment(shop, os.fspath(request.garment))
    # both before either is read, which may fit a body
    person = find_files_beside(
        request.person, slots.pose_style, needs_body=name == "turntable", **options
    )
    source = request.source
    if name == "transfer":
        source = find_files_beside(source, slots.pose_style, **options)
    if row is None:
        prepared = PREPARE[name](slots, request, person, source)
    else:
        prepared = _prepare_row(row, slots, request, person)
    return replace(prepared, files=list_files(person) | list_files(source))


def _prepare_try_on(
    slots: SlotFitter, request: SampleRequest, person: PersonFiles, _: PersonFiles
) -> PreparedTask:
    garment = _read_garment(slots, request)
    me = _read_person(slots, person, request, as_input=False)
    face = _require(me.face)

    def generate(sampler: Sampler, seed: int) -> Results:
        return {"try_on": try_on(sampler, garment, face, me.pose, seed=seed)}

    columns = {"garment": garment, "face": face, "pose": me.pose}
    return PreparedTask(columns, generate, {"try_on": me}, bodies={"person": me})


def _prepare_try_off(
    slots: SlotFitter, request: SampleRequest, person: PersonFiles, _: PersonFiles
) -> PreparedTask:
    me = _read_person(slots, person, request, face_use="optional")
    photo, face = _require(me.person), _require(me.face)

    def generate(sampler: Sampler, seed: int) -> Results:
        return {"try_off": try_off(sampler, photo, face, me.pose, seed=seed)}

    return PreparedTask(
        {"person": photo, "face": face, "pose": me.pose}, generate, {}, bodies={"person": me}
    )


def _prepare_transfer(
    slots: SlotFitter, request: SampleRequest, person: PersonFiles, source: PersonFiles
) -> PreparedTask:
    worn = _read_person(slots, source, request, face_use="optional")
    me = _read_person(slots, person, request, as_input=False)
    photo, worn_face, face = map(_require, (worn.person, worn.face, me.face))

    def generate(sampler: Sampler, seed: int) -> Results:
        garments, people = transfer(sampler, photo, worn_face, worn.pose, face, me.pose, seed=seed)
        return {"garment": garments, "transfer": people}

    columns = {"source": photo, "face": face, "pose": me.pose}
    bodies = {"person": me, "source_person": worn}
    return PreparedTask(columns, generate, {"transfer": me}, calls=2, bodies=bodies)


def _prepare_turntable(
    slots: SlotFitter, request: SampleRequest, person: PersonFiles, _: PersonFiles
) -> PreparedTask:
    me = _read_person(slots, person, request, as_input=False, views=request.views)
    garment = _read_garment(slots, request)
    face, poses = _require(me.face), _require(me.pose)

    def generate(sampler: Sampler, seed: int) -> Results:
        return {"turntable": turntable(sampler, garment, face, poses, seed=seed)}

    columns = {"garment": garment, "face": face, "pose": poses}
    bodies = {"person": me}
    return PreparedTask(columns, generate, {"turntable": me}, request.views, bodies=bodies)


PREPARE = {
    "try_on": _prepare_try_on,
    "try_off": _prepare_try_off,
    "transfer": _prepare_transfer,
    "turntable": _prepare_turntable,
}


def read_row(
    row: Task, slots: SlotFitter, request: SampleRequest, person: PersonFiles
) -> tuple[dict[str, np.ndarray], PersonInputs]:
    """Return the inputs of a row of the task table: its clean components, and the person.

    The components are (1, h, w, 3) in [-1, 1] by name, those that there are. `person` are the
    person's files with those beside the photo. Raises OmfaError as `read_person` does.
    """
    given: dict[str, np.ndarray] = {}
    if "garment" not in row.noised:
        given["garment"] = _read_garment(slots, request)
    generates = "person" in row.noised
    face_use = "required" if generates else "optional"
    if "face" in row.noised:
        face_use = "unused"
    me = _read_person(slots, person, request, as_input=not generates, face_use=face_use)
    for name, image in (("person", me.person), ("face", me.face)):
        if name not in row.noised and image is not None:
            given[name] = image
    return given, me


def _prepare_row(
    row: Task, slots: SlotFitter, request: SampleRequest, person: PersonFiles
) -> PreparedTask:
    given, me = read_row(row, slots, request, person)
    canvas, has_pose = me.pose, None
    if not given and me.pose is None:
        # a task without inputs: a null pose map tells the sampler to generate one example
        canvas, has_pose = np.zeros((1, *slots.sizes["person"], 3), np.float32), np.zeros(1, bool)

    def generate(sampler: Sampler, seed: int) -> Results:
        return sampler(row.name, given, canvas, seed=seed, has_pose=has_pose)

    ordered = {name: given[name] for name in COMPONENTS if name in given}
    people = {"person": me} if "person" in row.noised else {}
    return PreparedTask({**ordered, "pose": me.pose}, generate, people, bodies={"person": me})


def _read_garment(slots: SlotFitter, request: SampleRequest) -> np.ndarray:
    assert request.garment is not None, "the command line requires --garment"
    return slots.load_image("garment", request.garment, "--garment")


def _require(image: np.ndarray | None) -> np.ndarray:
    assert image is not None, "the task reads this image, or has raised an error"
    return image


def _read_person(
    slots: SlotFitter, files: PersonFiles, request: SampleRequest, **how: Any
) -> PersonInputs:
    return read_person(slots, files, smplx_model=request.smplx_model, crop=request.crop, **how)
