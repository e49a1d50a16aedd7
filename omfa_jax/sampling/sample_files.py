"""What `omfa sample` writes: the images, their settings, and a sheet with the inputs."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from omfa_jax.body.body_file import save_body
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.images import from_signed, write_image
from omfa_jax.core.paths import AnyPath
from omfa_jax.sampling.image_sheet import draw_sheet
from omfa_jax.sampling.photo_frame import format_size
from omfa_jax.sampling.prepared_tasks import PreparedTask, Results

log = logging.getLogger(__name__)


def can_report_steps() -> bool:
    """Return whether a sampler should report its steps.

    JAX keeps no program that calls back in its compilation cache, if there is one: the sampler
    would be compiled in every run, which takes minutes for a large model.
    """
    # its attributes are made at run time
    config: Any = jax.config
    return not config.jax_compilation_cache_dir


class StepBar:
    """A progress bar of the sampler's steps; call it with the number of steps done.

    A context. The bar is drawn at the first step, because the sampler is compiled before.
    """

    def __init__(self, steps: int, calls: int):
        self._steps, self._total = steps, steps * calls
        # steps of the calls before this one, and the last number that was reported
        self._before, self._last = 0, -1
        self._bar: tqdm | None = None

    def __enter__(self) -> "StepBar":
        return self

    def __call__(self, done: Any) -> None:
        done = int(done)
        if done <= self._last:
            self._before += self._steps
        self._last = done
        self._move(self._before + done)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        # a step is reported as it begins, so the last one is still to be counted
        if kind is None:
            self._move(self._total)
        if self._bar is not None:
            self._bar.close()

    def _move(self, steps: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=self._total, unit="step", desc="sampling")
        self._bar.update(steps - self._bar.n)


def write_results(
    out: AnyPath,
    task: str,
    prepared: PreparedTask,
    results: Results,
    facts: Mapping[str, Any],
    *,
    cell_px: tuple[int, int],
    native_size: bool = False,
) -> None:
    """Write OUT/RESULT_NN.png for every generated image, OUT/TASK.json and OUT/sheet.png.

    The body of a person is written as OUT/person_body.npz (source_person_body.npz of a transfer).

    People are written in their photo's frame, or with `native_size` as they were generated. The
    JSON file holds `facts`, the images' names and sizes, and where the photo was cropped. Cells
    of the sheet have `cell_px` (height, width).
    """
    sizes_px: dict[str, list[int]] = {}
    crops: dict[str, Any] = {}
    for name, images in results.items():
        person = None if native_size else prepared.people.get(name)
        placed = images if person is None else person.restore(images)
        for index, image in enumerate(placed):
            file = f"{name}_{index:02d}.png"
            write_image(out / file, image)
            sizes_px[file] = [image.shape[1], image.shape[0]]
        where = ""
        if person is not None and person.frame is not None and person.frame.crop is not None:
            crops[name] = list(person.frame.crop)
            where = ", pasted back into the photo"
        log.info("%s: %s%s", name, format_size(placed.shape[1:3]), where)
    for name, person in prepared.bodies.items():
        if person.body is not None:
            path = out / f"{name}_body.npz"
            save_body(path, person.body.bodies[0], person.body.camera, source=person.body.source)
            log.info("wrote %s, the body and camera of the pose", path)
    said = {**facts, "images_px": sizes_px, "crops_px": crops}
    with atomic_write(out / f"{task}.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n")
    shown = {name: list(from_signed(i)) for name, i in prepared.columns.items() if i is not None}
    sheet = draw_sheet(shown | {name: list(i) for name, i in results.items()}, *cell_px)
    write_image(out / "sheet.png", sheet)
    log.info("wrote %s and %s.json", out / "sheet.png", task)
