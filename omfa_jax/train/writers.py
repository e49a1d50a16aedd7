"""Where the numbers go: a JSON line each, TensorBoard, W&B if asked, and the terminal."""

import json
import logging
import math
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from omfa_jax.core.errors import require_modules

log = logging.getLogger(__name__)


class Writers:
    """`metrics.jsonl` and TensorBoard event files in the workdir; silent on every host but one.

    With `wandb_project`, Weights & Biases as well: the run is named after the workdir, and a
    resumed one goes on in it. `config` is what it shows beside the curves.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        enabled: bool,
        wandb_project: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        self._lines = self._board = self._wandb = None
        if wandb_project:
            require_modules("config.log.wandb_project", "wandb", "wandb")
        if enabled:
            from tensorboardX import SummaryWriter

            folder = Path(workdir)
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = (folder / "metrics.jsonl").open("a", buffering=1)
            self._board = SummaryWriter(str(folder / "tensorboard"))
        if enabled and wandb_project:
            self._wandb = _wandb_run(Path(workdir), wandb_project, config or {})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; NaN (a task absent from the batch) is left out."""
        finite = {name: float(v) for name, v in values.items() if not math.isnan(v)}
        if self._lines is not None and self._board is not None:
            self._lines.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
            for name, value in finite.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Write one picture, uint8 (h, w, 3)."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            self._wandb.log({name: wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Flush and close the files."""
        if self._lines is not None and self._board is not None:
            self._lines.close()
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    import wandb  # pyright: ignore[reportMissingImports]

    # a file and not the folder's name: two folders of one name are two runs
    id_file = workdir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex)
    return wandb.init(
        project=project,
        name=workdir.name,
        id=id_file.read_text(),
        resume="allow",
        dir=str(workdir),
        config=dict(config),
    )


class Progress:
    """Loss, images/s of the last window and time left: a bar on a terminal, else lines logged."""

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
        """One step was dispatched."""
        self._step += 1
        self._bar.update(1)

    def window(self, step: int, loss: float) -> float:
        """Show the loss; return images/s since the last call (the caller has just waited)."""
        now, (then, before) = time.perf_counter(), self._mark
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        self._mark = (now, step)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.1f} images/s")
        if self._lines:
            left = "?"
            if rate > 0:
                seconds = (self._steps - step) * self._batch_size / rate
                left = str(timedelta(seconds=round(seconds)))
            log.info(
                "step %d of %d: loss %.4f, %.1f images/s, %s left",
                *(step, self._steps, loss, rate, left),
            )
        return rate

    def pause(self) -> None:
        """Forget the time since the last window: it went into saving or sampling."""
        self._mark = (time.perf_counter(), self._step)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
