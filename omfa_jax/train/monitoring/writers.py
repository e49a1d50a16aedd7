"""Write metrics and images to metrics.jsonl, TensorBoard, W&B if asked, and the terminal."""

import contextlib
import json
import logging
import math
import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from tqdm import tqdm

from omfa_jax.core.append_only import AppendOnlyFile
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import require_modules
from omfa_jax.core.images import write_image
from omfa_jax.core.paths import AnyPath, is_remote, to_path
from omfa_jax.train.monitoring.background_writer import CLOSE_S, BackgroundWriter
from omfa_jax.train.monitoring.event_file import EventFile
from omfa_jax.train.monitoring.tensorboard_tags import format_config, get_scalar_tag

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
# how many writes wait while the disk is full: a row is a kilobyte, an image megabytes
MAX_QUEUED_ROWS, MAX_QUEUED_IMAGES = 200, 16
# W&B uploads the rest at the end; seconds
WANDB_CLOSE_S = 60.0
# a store's clients retry a failed request for half a minute
REMOTE_CLOSE_S = 45.0


class Writers:
    """`metrics.jsonl` and TensorBoard event files in the workdir; only one host writes.

    With `wandb_project`, Weights & Biases as well, in a run named after the workdir that a restart
    resumes. Both show `config`, TensorBoard as a text at `step`, the one that the process starts
    from. None of them can end or block the run (see `BackgroundWriter`).
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        enabled: bool,
        wandb_project: str = "",
        config: Mapping[str, Any] | None = None,
        step: int = 0,
    ):
        self._enabled, self._wandb = enabled, None
        if wandb_project:
            require_modules("config.log.wandb_project", "wandb", "wandb")
        if not enabled:
            return
        folder = to_path(workdir)
        self._lines = AppendOnlyFile(folder / METRICS_FILE, lines=True)
        self._events = EventFile(folder / "tensorboard")
        self._samples = folder / "samples"
        self._rows = BackgroundWriter(f"rows of {self._lines.path}")
        self._board = BackgroundWriter(f"curves in {folder / 'tensorboard'}", kept=MAX_QUEUED_ROWS)
        self._images = BackgroundWriter(f"images in {self._samples}", kept=MAX_QUEUED_IMAGES)
        if config:
            text = format_config(config)
            self._board.put(lambda: self._events.write_text(step, "config", text))
        if wandb_project:
            self._wandb = _wandb_run(folder, wandb_project, config or {})
        if self._wandb is not None:
            self._online = BackgroundWriter("W&B", kept=MAX_QUEUED_ROWS)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row without its NaN values (a task absent from the batch)."""
        finite = {name: float(v) for name, v in values.items() if not math.isnan(v)}
        if not self._enabled:
            return
        row = json.dumps({"step": step, "time": time.time(), **finite}) + "\n"
        self._rows.put(lambda: self._lines.append(row.encode()))
        tagged = {get_scalar_tag(name): value for name, value in finite.items()}
        self._board.put(lambda: self._events.write_scalars(step, tagged))
        if self._wandb is not None:
            run = self._wandb
            self._online.put(lambda: run.log(finite, step=step))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write one image, uint8 (h, w, 3), to samples/STEP_NAME.png, TensorBoard and W&B."""
        if not self._enabled:
            return
        file = self._samples / f"{step:07d}_{name}.png"
        self._images.put(lambda: write_image(file, image))
        self._board.put(lambda: self._events.write_image(step, f"samples/{name}", image))
        if self._wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            run, shown = self._wandb, wandb.Image(image)
            self._online.put(lambda: run.log({name: shown}, step=step))

    def flush(self) -> None:
        """Write to object storage what was logged until now; files of this machine have it already.

        Called before a save: a run that resumes from it then has all rows up to it.
        """
        if self._enabled and is_remote(self._lines.path):
            self._rows.put(self._lines.flush)
            self._board.put(self._events.flush)

    def close(self) -> None:
        """Flush and close the files; give up on what cannot be written within seconds."""
        if not self._enabled:
            return
        if self._wandb is not None:
            self._online.put(self._wandb.finish)
            self._online.close(WANDB_CLOSE_S)
        # in the writers' threads, because object storage is written to
        self._rows.put(self._lines.close)
        self._board.put(self._events.close)
        seconds = REMOTE_CLOSE_S if is_remote(self._lines.path) else CLOSE_S
        for outlet in (self._rows, self._board, self._images):
            outlet.close(seconds)


def _wandb_run(workdir: AnyPath, project: str, config: Mapping[str, Any]) -> Any:
    """Return a new or resumed W&B run; None, with a warning, if it cannot be started."""
    import wandb  # pyright: ignore[reportMissingImports]

    # an id file and not the folder's name: two workdirs of the same name are two runs
    id_file = workdir / "wandb_id"
    try:
        if not id_file.exists():
            with atomic_write(id_file) as temporary:
                temporary.write_text(uuid.uuid4().hex)
        return wandb.init(
            project=project,
            name=workdir.name,
            id=id_file.read_text(),
            resume="allow",
            # W&B opens no URL; its own files are then in TMPDIR
            dir=tempfile.mkdtemp(prefix="omfa-") if is_remote(workdir) else str(workdir),
            config=dict(config),
        )
    except Exception as error:  # a full disk, no network, no key
        log.warning("W&B: %s: %s; training continues without it", type(error).__name__, error)
        return None


class Progress:
    """Shows loss, examples/s and time left: a bar on a terminal, log lines otherwise.

    If standard error cannot be written (a log on a full disk), it shows nothing.
    """

    def __init__(self, start: int, steps: int, batch_size: int, *, enabled: bool):
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            # None: on terminals only
            disable=None if enabled else True,
            dynamic_ncols=True,
        )
        self._lines = enabled and self._bar.disable
        self._step, self._steps = start, steps
        self._batch_size = batch_size
        self._mark = (time.perf_counter(), start)

    def advance(self) -> None:
        """Count a step that was dispatched."""
        self._step += 1
        with contextlib.suppress(OSError):
            self._bar.update(1)

    def report(self, step: int, loss: float) -> float:
        """Show the loss; return examples/s since the last call. The caller has synchronised."""
        now, (then, before) = time.perf_counter(), self._mark
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        self._mark = (now, step)
        with contextlib.suppress(OSError):
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.1f} examples/s")
        if self._lines:
            left = "?"
            if rate > 0:
                seconds = (self._steps - step) * self._batch_size / rate
                left = str(timedelta(seconds=round(seconds)))
            log.info(
                "step %d of %d: loss %.4f, %.1f examples/s, %s left",
                *(step, self._steps, loss, rate, left),
            )
        return rate

    def pause(self) -> None:
        """Leave out the time since the last window: compiling, saving or sampling."""
        self._mark = (time.perf_counter(), self._step)
        # the bar's own time left
        self._bar.unpause()

    def close(self) -> None:
        """Close the bar, leaving its last line on the terminal."""
        with contextlib.suppress(OSError):
            self._bar.close()
