"""Where the numbers go: a JSON line each, TensorBoard, and the terminal."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm


class Writers:
    """`metrics.jsonl` and TensorBoard event files in the workdir; silent on every host but one."""

    def __init__(self, workdir: str | Path, *, enabled: bool):
        self._lines = self._board = None
        if enabled:
            from tensorboardX import SummaryWriter

            folder = Path(workdir)
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = (folder / "metrics.jsonl").open("a", buffering=1)
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; NaN (a task absent from the batch) is left out."""
        finite = {name: float(v) for name, v in values.items() if not math.isnan(v)}
        if self._lines is not None and self._board is not None:
            self._lines.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
            for name, value in finite.items():
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Write one picture, uint8 (h, w, 3)."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        if self._lines is not None and self._board is not None:
            self._lines.close()
            self._board.close()


class Progress:
    """The bar: loss, images a second and the time left; images/s is that of the last window."""

    def __init__(self, start: int, steps: int, batch_size: int, *, enabled: bool):
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not enabled, dynamic_ncols=True
        )
        self._batch_size = batch_size
        self._mark = (time.perf_counter(), start)

    def advance(self) -> None:
        """One step was dispatched."""
        self._bar.update(1)

    def window(self, step: int, loss: float) -> float:
        """Show the loss; return images/s since the last call (the caller has just waited)."""
        now, (then, before) = time.perf_counter(), self._mark
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        self._mark = (now, step)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.1f} images/s")
        return rate

    def pause(self) -> None:
        """Forget the time since the last window: it went into saving or sampling."""
        self._mark = (time.perf_counter(), self._bar.n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
