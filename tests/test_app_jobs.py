"""The jobs of the web page, without a browser: checks, files, previews and the command."""

import contextlib
import os
import shlex
import signal
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from wide_photos import StandIn

from omfa_jax.app import web_server
from omfa_jax.app.example_photos import list_examples
from omfa_jax.app.job_form import (
    OF_ANOTHER,
    JobForm,
    find_needed,
    list_tasks,
    name_photos,
    write_commands,
)
from omfa_jax.app.job_runner import JobResult, JobRunner, collect_warnings, is_a_job_running
from omfa_jax.app.pose_pictures import draw_pose_pictures
from omfa_jax.app.settings import AppLimits
from omfa_jax.cli.main import main, make_parser
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.core.tasks import Task
from omfa_jax.model_loading import TINY_FOLDER

PEOPLE, GARMENTS = (list(map(str, list_examples(kind))) for kind in ("image", "cloth"))
FORM = JobForm("try_on", PEOPLE[0], GARMENTS[0], steps=3)


class PreviewStandIn(StandIn):
    """Returns who is drawn in the pose map, and previews that."""

    def __init__(self, model, settings, *, dtype):
        super().__init__(model, settings, dtype=dtype, on_step=None)
        self.on_preview = None

    def change_settings(self, settings):
        self.settings = settings

    def __call__(self, task, given, pose, *, seed, has_pose=None):
        images = super().__call__(task, given, pose, seed=seed)
        if self.on_preview:
            self.on_preview(1, self.settings.steps, images)
        return images


@pytest.fixture
def runner(monkeypatch, tmp_path):
    monkeypatch.setattr("omfa_jax.app.job_runner.PreviewSampler", PreviewStandIn)
    return JobRunner("tiny", tmp_path)


def finish(runner, form):
    *updates, result = runner.run(form)
    assert isinstance(result, JobResult)
    return updates, result


def form(**changed):
    return JobForm(**{**FORM.__dict__, **changed})


def test_a_job_reports_previews_and_leaves_one_archive(runner, tmp_path):
    updates, result = finish(runner, form(results=2))
    shares = [update.share for update in updates]
    assert shares == sorted(shares) and sum(u.preview is not None for u in updates) == 2
    assert [label for _, label in result.pictures] == ["try on, seed 0", "try on, seed 1"]
    assert result.pictures[0][0].shape == read_rgb(PEOPLE[0]).shape
    assert result.overlay.shape == (128, 96, 3) and not result.notes
    # nothing of the server's folders, and a model that every installation has
    assert result.commands.startswith("omfa sample --checkpoint tiny --task try_on --person image/")
    names = zipfile.ZipFile(result.archive).namelist()
    assert {"image/person.jpg", "smplx/person.npz", "results/result_01.png"} <= {*names}
    assert [path.name for path in tmp_path.glob("job_*/*")] == ["omfa_job.zip"]
    os.utime(result.archive.parent, (0, 0))
    runner.remove_old_files()
    assert not [*tmp_path.glob("job_*")]


@pytest.mark.parametrize("pose", ["wave_left", OF_ANOTHER])
def test_the_pose_is_that_of_the_picture_or_of_the_other_photo(runner, pose):
    plain = finish(runner, FORM)[1].pictures[0][0]
    posed = finish(runner, form(pose=pose, pose_photo=PEOPLE[2]))[1].pictures[0][0]
    assert np.abs(plain.astype(int) - posed).mean() > 3


def test_every_task_runs(runner):
    for task in ("try_off", "transfer", "turntable"):
        _, result = finish(runner, form(task=task, source=PEOPLE[1], views=2))
        assert len(result.pictures) == {"try_off": 1, "transfer": 2, "turntable": 2}[task]
        for line in result.commands.splitlines():
            words = shlex.split(line)
            options = make_parser("sample").parse_args(words[2:])
            assert options.task == task and options.seed == 0


def test_the_command_makes_the_same_picture(runner, tmp_path, monkeypatch):
    monkeypatch.setattr("omfa_jax.sampling.sampler.Sampler", StandIn)
    _, result = finish(runner, form(pose="wave_left", seed=5))
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(result.archive).extractall(folder)
    monkeypatch.chdir(folder)
    assert main(shlex.split(result.commands)[1:]) == 0
    found = read_rgb(folder / "out/seed_5/try_on_00.png")
    np.testing.assert_array_equal(found, result.pictures[0][0])
    np.testing.assert_array_equal(found, read_rgb(folder / "results/result_00.png"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"garment": None}, "try_on needs a photo of the garment: upload one"),
        ({"task": "try"}, "unknown task 'try'; did you mean"),
        ({"pose": OF_ANOTHER}, "upload the photo with the pose"),
        ({"pose": "hands_on_hip"}, "unknown pose 'hands_on_hip'; did you mean"),
        ({"steps": 101}, "steps: expected a whole number from 1 to 100, got 101"),
        ({"results": 5}, "results: expected a whole number from 1 to 4, got 5"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"guidance": float("nan")}, "guidance"),
    ],
)
def test_a_fault_of_the_form_names_the_field(runner, changed, said):
    with pytest.raises(OmfaError, match=said):
        finish(runner, form(**changed))


def test_files_that_are_no_photo_or_show_nobody_are_said_so(runner, tmp_path):
    text = tmp_path / "shirt.jpg"
    text.write_text("a text")
    with pytest.raises(OmfaError, match=r"photo of the garment shirt.jpg: not an image"):
        finish(runner, form(garment=str(text)))
    with pytest.raises(OmfaError, match=r"photo of the person: no person found \(best score"):
        finish(runner, form(person=GARMENTS[1]))
    assert not [*tmp_path.glob("job_*")], "nothing is left of jobs that failed"


def test_only_the_small_model_is_named(runner, monkeypatch, tmp_path):
    assert JobRunner(TINY_FOLDER, tmp_path).shown_checkpoint == runner.shown_checkpoint == "tiny"
    # a folder of that name goes before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    monkeypatch.setattr("omfa_jax.app.job_runner.load_model", lambda _: runner.model)
    assert JobRunner("tiny", tmp_path).shown_checkpoint is None


def test_warming_up_says_in_a_line_what_fails_and_nothing_when_stopped(runner, monkeypatch, caplog):
    text = "try-on is not compiled before its first use: photo of the person: no person found"
    monkeypatch.setattr("omfa_jax.app.job_runner.list_examples", lambda _: [GARMENTS[1]])
    runner.warm_up()
    assert [text in line for line in caplog.messages].count(True) == 1
    caplog.clear()
    runner.close(0)
    runner.warm_up()
    assert not caplog.messages


def test_a_visitor_who_leaves_ends_the_job(runner, tmp_path):
    job = runner.run(form(results=4))
    next(update for update in job if update.preview is not None)
    job.close()
    assert not [*tmp_path.glob("job_*")]
    finish(runner, FORM)


def test_a_page_that_stops_ends_its_jobs_and_tells_who_waits(runner, tmp_path):
    job = runner.run(form(results=4))
    next(job)
    assert is_a_job_running()
    runner.close(20)
    assert not is_a_job_running() and not [*tmp_path.glob("job_*")]
    with pytest.raises(OmfaError, match="the page has been stopped"):
        list(job)
    with pytest.raises(OmfaError, match="the page has been stopped"):
        finish(runner, FORM)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_page_with_its_status(monkeypatch, capsys, number, status):
    left = []

    @contextlib.contextmanager
    def serve(checkpoint, **options):
        try:
            yield "http://127.0.0.1:1"
        finally:
            left.append(options["limits"].queue)

    monkeypatch.setattr(web_server, "serve", serve)
    # arrives while the page waits
    monkeypatch.setattr(threading.Event, "wait", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main(["app", "--queue=3"]) == status and left == [3]
    assert signal.getsignal(number) is before
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"omfa app: stopped by {number.name}; the visitors' files are removed"
    # inside XLA a thread cannot be ended: the process is left
    monkeypatch.setattr("omfa_jax.app.job_runner.is_a_job_running", lambda: True)
    monkeypatch.setattr(os, "_exit", lambda status: left.append(status))
    main(["app"])
    assert left[-1] == status and "a job was still under way" in capsys.readouterr().err


def test_a_signal_during_the_start_is_not_lost(monkeypatch):
    @contextlib.contextmanager
    def serve(checkpoint, **options):
        # as a library does that tries whether its server answers
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)
        yield "http://127.0.0.1:1"

    monkeypatch.setattr(web_server, "serve", serve)
    with pytest.raises(web_server.Stopped, match="stopped by SIGTERM"):
        web_server.serve_until_stopped(None)


def test_the_servers_folders_stay_its_own(tmp_path):
    placed = {"person": tmp_path / "image/person.jpg"}
    first, second = write_commands(FORM, tmp_path, placed, None, None).splitlines()
    assert first == "# DIR: a folder with the model of this page"
    assert second.startswith("omfa sample --checkpoint DIR --task try_on --person image/person.jpg")
    said = name_photos(f"{placed['person']}: {tmp_path}/smplx/person.npz", placed, tmp_path)
    assert said == "photo of the person: smplx/person.npz"


def test_tasks_follow_the_models_table():
    rows = [Task("try_on", ("person",), 1, ""), Task("joint", ("garment", "person"), 1, "")]
    assert list_tasks(rows) == ["try_on", "joint", "turntable"]
    assert find_needed("joint", rows) == ("person",)
    assert find_needed("dress", [Task("dress", ("face",), 1, "")]) == ("garment", "person")


def test_warnings_are_those_of_this_package_and_thread(caplog):
    import logging

    with collect_warnings() as notes:
        logging.getLogger("omfa_jax.body").warning("two people: %s", "the largest")
        logging.getLogger("other").warning("not ours")
        logging.getLogger("omfa_jax").info("no warning")
    logging.getLogger("omfa_jax").warning("later")
    assert notes == ["two people: the largest"]


def test_pose_pictures_differ_and_lie_on_white():
    pictures = draw_pose_pictures(["arms_down", "t_pose"])
    assert {*pictures} == {"arms_down", "t_pose"}
    for picture in pictures.values():
        assert picture.shape == (128, 128, 3) and (picture[0] == 255).all()
        assert 0.02 < (picture.max(-1) < 250).mean() < 0.5
    assert (pictures["arms_down"] != pictures["t_pose"]).any()


def test_limits_and_listening_are_modest_by_default():
    options = make_parser("app").parse_args([])
    assert options.host == "127.0.0.1" and not options.share and options.checkpoint is None
    limits = AppLimits()
    assert (options.queue, options.max_upload_mb) == (limits.queue, limits.upload_mb)
    assert (options.max_results, options.max_steps) == (limits.results, limits.steps)
    assert Path(PEOPLE[0]).is_file() and sum(Path(p).stat().st_size for p in PEOPLE) < 200_000
