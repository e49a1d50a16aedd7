"""The page: fields, events and words, in Gradio."""

import html
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from omfa_jax.app.example_photos import list_examples
from omfa_jax.app.job_form import AS_IN_PHOTO, OF_ANOTHER, JobForm, find_needed, list_tasks
from omfa_jax.app.job_runner import JobResult, JobRunner, JobUpdate
from omfa_jax.app.photo_field import make_photo_field
from omfa_jax.app.pose_pictures import draw_pose_pictures
from omfa_jax.app.upload_guard import UploadCounter
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import resize

log = logging.getLogger(__name__)

TITLE = "One photo, any garment, any pose"
WORDS = {
    "try_on": "Try on: dress the person in the garment",
    "try_off": "Take off: show the garment that the person wears",
    "transfer": "Transfer: dress the person in what somebody else wears",
    "turntable": "Turntable: dress the person and walk around them",
}
STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
footer { display: none !important; }
#problem { border: 1px solid #d7664a; background: #fdeee9; color: #7c2410; border-radius: 8px;
  padding: 10px 14px; font-size: 15px; }
#poses .grid-wrap { max-height: 330px; } #poses img { object-fit: contain !important; }
#examples_image img, #examples_cloth img { object-fit: contain !important; }
#results .thumbnail-item { max-height: 290px; aspect-ratio: auto; }
#preview img, #overlay img { object-fit: contain; }
"""
PREVIEW_PX = 384
PICTURES = "from the pictures"


def build_page(runner: JobRunner, uploads: UploadCounter) -> gr.Blocks:
    """Return the page of a runner; `uploads` counts the photos that come as text."""
    limits = runner.limits
    pictures = draw_pose_pictures()
    names = list(pictures)
    # Gradio counts a file's age in seconds: looked at every minute
    page = gr.Blocks(title="omfa", analytics_enabled=False, delete_cache=(60, limits.keep_s))
    with page:
        gr.Markdown(f"# {TITLE}\nTwo photos are enough: no mask, no keypoints.")
        tasks = list_tasks(runner.tasks)
        choices = [(WORDS.get(name, name.replace("_", " ")), name) for name in tasks]
        first = "try_on" if "try_on" in tasks else tasks[0]
        task = gr.Dropdown(choices, value=first, label="What to do", elem_id="task")
        with gr.Row():
            needed, made = find_needed(first, runner.tasks), {}
            for name, label in (
                ("source", "Who wears the garment"),
                ("person", "Person"),
                ("garment", "Garment"),
            ):
                made[name] = make_photo_field(
                    name, label, limits.upload_mb, uploads, shown=name in needed
                )
            photo_columns = [column for _, column in made.values()]
            with gr.Column(min_width=260):
                gallery = gr.Gallery(
                    label="Result",
                    columns=2,
                    height=330,
                    object_fit="contain",
                    elem_id="results",
                    buttons=["download", "fullscreen"],
                )
                preview = gr.Image(
                    label="Preview", visible=False, height=330, elem_id="preview", buttons=[]
                )
        problem = gr.HTML(visible=False, elem_id="problem")
        with gr.Row():
            with gr.Column(scale=3, min_width=330):
                people = make_examples("image", "Example people (synthetic)")
                garments = make_examples("cloth", "Example garments (synthetic)")
            with gr.Column(scale=4, min_width=300):
                pose = gr.Radio(
                    [AS_IN_PHOTO, PICTURES, OF_ANOTHER],
                    value=AS_IN_PHOTO,
                    label="Pose",
                    elem_id="pose",
                )
                grid = gr.Gallery(
                    list(pictures.values()),
                    show_label=False,
                    columns=4,
                    height=330,
                    allow_preview=False,
                    object_fit="contain",
                    visible=False,
                    elem_id="poses",
                    buttons=[],
                    type="numpy",
                )
                said = gr.Markdown(f"Pose: **{names[0]}**", visible=False, elem_id="chosen")
                made["pose_photo"] = make_photo_field(
                    "pose_photo", "Photo with the pose", limits.upload_mb, uploads, shown=False
                )
            fields = {name: field for name, (field, _) in made.items()}
            with gr.Column(scale=2, min_width=220):
                steps = gr.Slider(1, limits.steps, value=20, step=1, label="Steps")
                guidance = gr.Slider(1, 6, value=2, step=0.1, label="Guidance")
                results = gr.Slider(1, limits.results, value=1, step=1, label="Results")
                views = gr.Slider(
                    1, limits.views, value=8, step=1, label="Views", visible=False, elem_id="views"
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                go = gr.Button("Make the picture", variant="primary", elem_id="go")
        with gr.Row(visible=False) as details:
            overlay = gr.Image(
                label="The body that was used", height=280, elem_id="overlay", buttons=[]
            )
            with gr.Column(scale=2):
                command = gr.Code(
                    label="The same on the command line, in the unpacked folder",
                    language="shell",
                    elem_id="command",
                    wrap_lines=True,
                    lines=3,
                    max_lines=8,
                )
                notes = gr.Markdown()
                download = gr.DownloadButton("Download pictures, inputs and command")
        chosen = gr.State(names[0])

        task.change(lambda name: show_fields(name, runner), task, [*photo_columns, views])
        pose.change(
            lambda how: [
                gr.update(visible=how == name) for name in (PICTURES, PICTURES, OF_ANOTHER)
            ],
            pose,
            [grid, said, made["pose_photo"][1]],
        )

        def choose(event: gr.SelectData) -> tuple[str, str]:
            return names[event.index], f"Pose: **{names[event.index]}**"

        grid.select(choose, None, [chosen, said])
        for shown, target, kind in (
            (people, fields["person"], "image"),
            (garments, fields["garment"], "cloth"),
        ):
            files = list_examples(kind)

            def take(event: gr.SelectData, files: list[Path] = files) -> str:
                return str(files[event.index])

            shown.select(take, None, target)

        shown = [gallery, preview, problem, details, overlay, command, notes, download]

        def run(*values: Any, progress: Any = gr.Progress()) -> Iterator[dict]:  # noqa: B008
            """Run a job, and yield what changes on the page."""
            named = dict(zip(KEYS, values, strict=True))
            picked = named.pop("chosen")
            if named["pose"] not in (AS_IN_PHOTO, OF_ANOTHER):
                named["pose"] = picked
            empty = {problem: gr.update(visible=False), details: gr.update(visible=False)}
            yield empty | {
                preview: gr.update(visible=True, value=None),
                gallery: gr.update(visible=False),
            }
            try:
                for update in runner.run(JobForm(**named)):
                    if isinstance(update, JobUpdate):
                        progress(update.share, desc=update.message)
                        changed = {preview: gr.update(label=f"Preview: {update.message}")}
                        if update.preview is not None:
                            height, width = update.preview.shape[:2]
                            large = resize(
                                update.preview, PREVIEW_PX, round(PREVIEW_PX * width / height)
                            )
                            changed = {
                                preview: gr.update(value=large, label=f"Preview: {update.message}")
                            }
                        yield changed
                    else:
                        yield show_result(update)
            except OmfaError as error:
                yield show_problem(str(error))
            except Exception as error:
                log.exception("a job of the page failed")
                yield show_problem(f"this should not happen: {type(error).__name__}: {error}")

        def show_result(result: JobResult) -> dict:
            lines = [f"{len(result.pictures)} in {result.seconds:.1f} s."]
            lines += [f"Note: {note}" for note in result.notes]
            return {
                gallery: gr.update(value=result.pictures, visible=True),
                preview: gr.update(visible=False, value=None),
                details: gr.update(visible=True),
                overlay: gr.update(value=result.overlay, visible=result.overlay is not None),
                command: result.commands,
                notes: "\n\n".join(lines),
                download: gr.update(value=str(result.archive)),
            }

        def show_problem(text: str) -> dict:
            return {
                problem: gr.update(value=html.escape(text), visible=True),
                preview: gr.update(visible=False, value=None),
                gallery: gr.update(visible=True),
            }

        given = [task, *fields.values(), pose, chosen, steps, guidance, seed, results, views]
        clicked = go.click(run, given, shown, concurrency_limit=1, show_progress_on=preview)

        def say_if_full() -> dict:
            """Keep on the page what Gradio shows for some seconds: why a click did nothing."""
            waiting, keep = len(page._queue), {problem: gr.update()}
            return show_problem(describe_full_queue(waiting)) if waiting >= limits.queue else keep

        # `run` catches what happens within: only a click that never reached it fails
        clicked.failure(say_if_full, None, shown, queue=False, show_progress="hidden")
    return page


# names of JobForm's fields, in the order of the page's inputs; `chosen` is the picked picture
KEYS = ("task", "source", "person", "garment", "pose_photo", "pose", "chosen", "steps")
KEYS += ("guidance", "seed", "results", "views")


def describe_full_queue(waiting: int) -> str:
    """Return what a visitor is told whom the queue does not take."""
    return (
        f"the queue is full: {waiting} people wait for their pictures. Your photos are kept on this"
        " page: press the button again in a minute"
    )


def make_examples(kind: str, label: str) -> gr.Gallery:
    """Return a row of example photos."""
    gr.Markdown(f"**{label}**: click one")
    files = [str(path) for path in list_examples(kind)]
    return gr.Gallery(
        files,
        show_label=False,
        columns=len(files),
        height=140,
        allow_preview=False,
        object_fit="contain",
        elem_id=f"examples_{kind}",
        buttons=[],
    )


def show_fields(task: str, runner: JobRunner) -> list[Any]:
    """Return which fields a task has: source, person, garment and views."""
    needed = find_needed(task, runner.tasks)
    shown = [gr.update(visible=name in needed) for name in ("source", "person", "garment")]
    return [*shown, gr.update(visible=task == "turntable")]
