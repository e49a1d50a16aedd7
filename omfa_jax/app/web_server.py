"""Serve the page: on this machine alone by default, without a word to the outside."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from omfa_jax.app.settings import AppLimits
from omfa_jax.app.upload_guard import UploadCounter, UploadGuard
from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.model_loading import TINY_FOLDER

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# Gradio reads these when it is imported
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
# how long the page waits for jobs when it is stopped
END_S = 5.0


class Stopped(Exception):
    """The page was stopped by a signal; `exit_status` is 128 + its number."""

    def __init__(self, number: int):
        removed = "the visitors' files are removed"
        super().__init__(f"stopped by {signal.Signals(number).name}; {removed}")
        self.exit_status = 128 + number


def serve_until_stopped(checkpoint: str | None, **options: Any) -> NoReturn:
    """Serve the page as `serve` does until Ctrl-C or SIGTERM; then raise `Stopped`.

    If a job is still compiling then, the process is left at once with that exit status: a thread
    that returns from XLA while Python shuts down would abort it (status 134).
    """

    asked: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        asked.append(number)
        # those who are in a hurry must not interrupt the removal
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serve(checkpoint, **options) as address:
            log.info("open %s in a browser; Ctrl-C ends it and removes the files", address)
            # a library that catches every exception may have caught `Stopped` during the start
            while not asked:
                threading.Event().wait(END_S)
            raise Stopped(asked[0])
    except Stopped as stopped:
        _leave_if_a_job_runs(stopped)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_if_a_job_runs(stopped: Stopped) -> None:
    from omfa_jax.app.job_runner import is_a_job_running

    if is_a_job_running():
        with contextlib.suppress(OSError):
            print(f"omfa app: {stopped}; a job was still under way", file=sys.stderr, flush=True)
        os._exit(stopped.exit_status)


@contextlib.contextmanager
def serve(
    checkpoint: str | None,
    *,
    host: str = LOOPBACK,
    port: int = 7860,
    share: bool = False,
    limits: AppLimits | None = None,
    dtype: str = "auto",
    warm: bool = False,
) -> Iterator[str]:
    """Serve the page inside the context; yield its address.

    `checkpoint` None is the small model of the package; `warm` compiles the model
    while the first visitor chooses photos. All files of visitors lie in one temporary folder, which
    is removed at the end. OmfaError if Gradio is not installed, the model cannot be
    loaded, or the port is taken.
    """
    require_modules("the page", "app", "gradio")
    limits = limits or AppLimits()
    with tempfile.TemporaryDirectory(prefix="omfa_app_", ignore_cleanup_errors=True) as folder:
        os.environ.update(QUIET)
        # Gradio asks its own server whether it runs: a line each
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # read by every component that is made from here on
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        from gradio.themes import Soft
        from starlette.middleware import Middleware

        from omfa_jax.app.job_runner import JobRunner
        from omfa_jax.app.web_page import STYLE, build_page

        runner = JobRunner(checkpoint or TINY_FOLDER, Path(folder), limits, dtype)
        uploads = UploadCounter(limits)
        page = build_page(runner, uploads)
        # the default theme's fonts come from a font server
        theme: Any = Soft(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
        try:
            _, address, shared = page.queue(max_size=limits.queue).launch(
                server_name=host,
                server_port=port or None,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=f"{limits.upload_mb}mb",
                allowed_paths=[folder],
                theme=theme,
                css=STYLE,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                app_kwargs={
                    "middleware": [Middleware(UploadGuard, limits=limits, uploads=uploads)]
                },
            )
        except OSError as error:
            raise OmfaError(
                f"port {port} of {host} (--port, --host) cannot be used: {error}"
            ) from None
        if warm:
            threading.Thread(target=runner.warm_up, daemon=True).start()
        try:
            yield shared or address
        finally:
            runner.close(END_S)
            page.close(verbose=False)
