"""What a visitor asks for: checked, laid out as files, and as the command that does the same."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omfa_jax.app.example_photos import copy_files_beside
from omfa_jax.app.settings import AppLimits
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.images import read_rgb
from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.sampling.photo_files import PersonFiles
from omfa_jax.sampling.prepared_tasks import PREPARE, SampleRequest

AS_IN_PHOTO = "as in the photo"
OF_ANOTHER = "of another photo"
# what each photo is called on the page
LABELS = {
    "person": "photo of the person",
    "garment": "photo of the garment",
    "source": "photo of the person who wears the garment",
    "pose_photo": "photo with the pose",
}
NEEDED = {
    "try_on": ("person", "garment"),
    "try_off": ("person",),
    "transfer": ("source", "person"),
    "turntable": ("person", "garment"),
}
FOLDERS = {"garment": "cloth"}


@dataclass(frozen=True)
class JobForm:
    """The page's fields; photos are files, `pose` a name, AS_IN_PHOTO or OF_ANOTHER."""

    task: str
    person: str | None = None
    garment: str | None = None
    source: str | None = None
    pose_photo: str | None = None
    pose: str = AS_IN_PHOTO
    steps: int = 20
    guidance: float = 2.0
    seed: int = 0
    results: int = 1
    views: int = 8

    @property
    def sampler(self) -> SamplerSettings:
        """The settings of the sampler; OmfaError for values that it does not take."""
        return SamplerSettings(int(self.steps), float(self.guidance))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the results, one after the other."""
        return [int(self.seed) + index for index in range(int(self.results))]


def list_tasks(tasks: Sequence[Task]) -> list[str]:
    """Return the tasks that a model can do: its rows, and those that are made of them."""
    rows = [row.name for row in tasks]
    compound = {"transfer": {"try_on", "try_off"}, "turntable": {"try_on"}}
    return rows + [name for name, used in compound.items() if used <= set(rows)]


def find_needed(name: str, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return the photos that a task needs, by their names in LABELS."""
    if name not in list_tasks(tasks):
        raise make_unknown_name_error("task", name, list_tasks(tasks))
    if name in NEEDED:
        return NEEDED[name]
    row = next(task for task in tasks if task.name == name)
    needed = ["garment"] if "garment" not in row.noised else []
    # of the person's photo comes the face, too
    if "person" not in row.noised or "face" not in row.noised:
        needed.append("person")
    return tuple(needed)


def check_form(form: JobForm, tasks: Sequence[Task], poses: Sequence[str], limits: AppLimits):
    """Raise an OmfaError, for the page, that says which field to change."""
    for name in find_needed(form.task, tasks):
        if getattr(form, name) is None:
            raise OmfaError(f"{form.task} needs a {LABELS[name]}: upload one, or click an example")
    if form.pose == OF_ANOTHER and form.pose_photo is None:
        raise OmfaError(f"pose {OF_ANOTHER}: upload the {LABELS['pose_photo']}")
    if form.pose not in (AS_IN_PHOTO, OF_ANOTHER, *poses):
        raise make_unknown_name_error("pose", form.pose, poses)
    for name in ("steps", "results", "views"):
        value, most = getattr(form, name), getattr(limits, name)
        if not 1 <= value <= most or value != int(value):
            raise OmfaError(f"{name}: expected a whole number from 1 to {most}, got {value:g}")
    if not 0 <= form.seed < 2**31 - limits.results or form.seed != int(form.seed):
        raise OmfaError(f"seed: expected a whole number from 0, got {form.seed:g}")
    _ = form.sampler


def lay_out_photos(form: JobForm, folder: Path, tasks: Sequence[Task]) -> dict[str, Path]:
    """Copy the photos that a job needs into `folder`, as a raw data set; return their places.

    Raises an OmfaError that names the field if one of them is no image.
    """
    names = [*find_needed(form.task, tasks)]
    if form.pose == OF_ANOTHER:
        names.append("pose_photo")
    placed = {}
    for name in names:
        upload = Path(getattr(form, name))
        try:
            read_rgb(upload, LABELS[name])
        except OmfaError as error:
            # without the folder of uploads, which means nothing to the visitor
            raise OmfaError(str(error).replace(f" {upload}", f" {upload.name}")) from None
        place = folder / FOLDERS.get(name, "image") / f"{name}{upload.suffix.lower() or '.png'}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(upload, place)
        if name != "garment":
            copy_files_beside(upload, place)
        placed[name] = place
    return placed


def find_pose(form: JobForm, placed: dict[str, Path]) -> str | Path | None:
    """Return the pose as `omfa sample --pose` takes it: a name, a photo, or None (the photo's)."""
    if form.pose == AS_IN_PHOTO or form.task == "try_off":
        return None
    return placed["pose_photo"] if form.pose == OF_ANOTHER else form.pose


def make_request(form: JobForm, placed: dict[str, Path], pose: str | Path | None) -> SampleRequest:
    """Return the files as `omfa sample` takes them."""
    return SampleRequest(
        garment=placed.get("garment"),
        person=PersonFiles(placed.get("person"), pose=pose),
        source=PersonFiles(placed.get("source"), prefix="--source-"),
        views=int(form.views),
    )


def name_photos(text: str, placed: dict[str, Path], folder: Path) -> str:
    """Return a message with the page's names of the photos instead of their places in `folder`."""
    for name, place in placed.items():
        text = text.replace(str(place), LABELS[name])
    return text.replace(f"{folder}/", "")


def find_row(form: JobForm, tasks: Sequence[Task]) -> Task | None:
    """Return the row of a task that has no function of its own, as `prepare_task` takes it."""
    return None if form.task in PREPARE else next(t for t in tasks if t.name == form.task)


def write_commands(
    form: JobForm,
    folder: Path,
    placed: dict[str, Path],
    pose: str | Path | None,
    checkpoint: str | None,
) -> str:
    """Return the `omfa sample` commands that make the results again, from inside `folder`.

    Without a name for `checkpoint` they have the placeholder DIR, and say so.
    """
    flags = {"person": "--person", "garment": "--garment", "source": "--source-person"}
    lines = [] if checkpoint else ["# DIR: a folder with the model of this page"]
    for seed in form.seeds:
        words = ["omfa", "sample", "--checkpoint", checkpoint or "DIR", "--task", form.task]
        for name, flag in flags.items():
            if name in placed:
                words += [flag, str(placed[name].relative_to(folder))]
        if pose is not None:
            words += ["--pose", str(pose.relative_to(folder)) if isinstance(pose, Path) else pose]
        if form.task == "turntable":
            words += ["--views", str(int(form.views))]
        words += ["--steps", str(int(form.steps)), "--guidance", f"{float(form.guidance)}"]
        words += ["--seed", str(seed), "--out", f"out/seed_{seed}"]
        lines.append(shlex.join(words))
    return "\n".join(lines)
