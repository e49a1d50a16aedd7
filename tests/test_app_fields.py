"""The page's fields without a browser: photos by upload, clipboard and webcam, and their limits."""

import asyncio
import base64
import gc
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from omfa_jax.app.example_photos import list_examples
from omfa_jax.app.job_form import OF_ANOTHER
from omfa_jax.app.settings import AppLimits
from omfa_jax.app.upload_guard import UploadCounter, UploadGuard
from omfa_jax.core.tasks import Task

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="not installed: gradio"),
    # Gradio's own
    pytest.mark.filterwarnings("ignore"),
]
PHOTO = list_examples("image")[0]


@pytest.fixture(autouse=True)
def collected():
    """Collect the event loops that Gradio leaves behind, while their warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture
def field(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from omfa_jax.app.photo_field import make_photo_field

    uploads = UploadCounter(AppLimits(uploads=1))
    return make_photo_field("person", "Person", 1, uploads, shown=True)[0]


def test_photos_come_as_files_or_as_a_webcams_text(field, tmp_path):
    from gradio.data_classes import ImageData

    assert field.preprocess(None) is None
    assert field.preprocess(ImageData(path=str(PHOTO))) == str(PHOTO)
    assert {"upload", "clipboard", "webcam"} == {*field.sources}
    text = base64.b64encode(PHOTO.read_bytes()).decode()
    taken = Path(field.preprocess(ImageData(url=f"data:image/jpeg;base64,{text}")))
    # among the uploads, which are removed with them
    assert taken.read_bytes() == PHOTO.read_bytes() and tmp_path in taken.parents
    with pytest.raises(Exception, match="Person: expected at most 1 MB"):
        field.preprocess(ImageData(url="data:image/jpeg;base64," + "A" * 2_000_000))
    # the text became a file of the server, and is counted; files were when they came
    with pytest.raises(Exception, match="Person: too many photos were uploaded to this page"):
        field.preprocess(ImageData(url="data:image/jpeg;base64,AAAA"))
    assert field.preprocess(ImageData(path=str(PHOTO))) == str(PHOTO)


def test_links_are_not_fetched(field, tmp_path):
    with pytest.raises(Exception, match="Person: upload the photo; links are not fetched"):
        asyncio.run(field.async_move_resource_to_block_cache("http://127.0.0.1:1/me.jpg"))
    kept = Path(asyncio.run(field.async_move_resource_to_block_cache(str(PHOTO))))
    assert kept.read_bytes() == PHOTO.read_bytes() and tmp_path in kept.parents


def test_uploads_are_bounded_in_size_and_number():
    passed, now = [], [0.0]

    async def page(scope, receive, send):
        passed.append(scope["path"])

    limits = AppLimits(upload_mb=1, uploads=2, keep_s=600)
    guard = UploadGuard(page, limits, UploadCounter(limits, lambda: now[0]))

    def post(length, path="/gradio_api/upload", method="POST"):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [] if length is None else [(b"content-length", str(length).encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(guard(scope, None, send))
        return (sent[0]["status"], sent[1]["body"].decode()) if sent else None

    assert post(2**21) == (413, "upload one photo of at most 1 MB at a time")
    assert post(None) == (411, "an upload must state its size")
    assert post(2**20) is None and post(9) is None
    late = (429, "too many photos were uploaded to this page: try again in 10 minutes")
    assert post(9) == late
    # the rest of the page goes on, and the next photos after those are removed
    assert post(2**21, "/gradio_api/queue/join") is None and post(None, "/", "GET") is None
    now[0] = 601
    assert post(9) is None and len(passed) == 5


@pytest.fixture
def page(monkeypatch, tmp_path):
    """The page of two tasks and one pose."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from omfa_jax.app import web_page

    picture = {"t_pose": np.zeros((8, 8, 3), np.uint8)}
    monkeypatch.setattr(web_page, "draw_pose_pictures", lambda: picture)
    rows = [Task("try_on", ("person",), 1, ""), Task("try_off", ("garment",), 1, "")]
    limits = AppLimits(queue=2)
    return web_page.build_page(SimpleNamespace(limits=limits, tasks=rows), UploadCounter(limits))


def test_photos_keep_their_protection_when_the_task_or_the_pose_changes(page, tmp_path):
    from gradio.state_holder import SessionState

    text, state = tmp_path / "shirt.jpg", SessionState(page)
    text.write_text("a text")
    changes = [event for event in page.fns.values() if event.targets[0][1] == "change"]
    for event, chosen in zip(changes, ("try_off", OF_ANOTHER), strict=True):
        asyncio.run(page.postprocess_data(event, event.fn(chosen), state))
    (click,) = (event for event in page.fns.values() if event.name == "run")
    names = ("source", "person", "garment", "pose_photo")
    fields = [part for part in click.inputs if part.elem_id in names]
    assert [part.elem_id for part in fields] == [*names]
    shown = [part.parent.visible for part in fields]
    after = [state[part.parent._id].visible for part in fields]
    assert (shown, after) == ([False, True, True, False], [False, True, False, True])
    for part in fields:
        # what Gradio would ask in this session
        asked = state.get(part._id, part)
        assert asked.preprocess(SimpleNamespace(path=str(text), url=None)) == str(text)
        with pytest.raises(Exception, match="links are not fetched"):
            asyncio.run(asked.async_move_resource_to_block_cache("http://127.0.0.1:1/me.jpg"))


def test_a_full_queue_is_said_on_the_page(page, monkeypatch):
    say = next(event for event in page.fns.values() if event.name == "say_if_full")
    # asked past the queue, when the click was refused
    assert not say.queue and say.trigger_only_on_failure
    for waiting, visible in ((2, True), (1, None)):
        monkeypatch.setattr(type(page._queue), "__len__", lambda _, count=waiting: count)
        changed = {part.elem_id: change for part, change in say.fn().items()}
        assert changed["problem"].get("visible") == visible
    monkeypatch.setattr(type(page._queue), "__len__", lambda _: 2)
    (text,) = (change["value"] for part, change in say.fn().items() if part.elem_id == "problem")
    assert text.startswith("the queue is full: 2 people wait")
