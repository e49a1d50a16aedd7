"""TensorBoard event files, written record by record.

tensorboardX's own writer runs a thread that dies on a full disk, after which the next event blocks
in its queue forever. Only that package's messages and checksum are used here.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from omfa_jax.core.append_only import AppendOnlyFile
from omfa_jax.core.paths import AnyPath


@contextlib.contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """Let imports of these modules fail within the block, as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# tensorboardX imports them where they are installed: 1.3 s and 200 MB at every start of a process
with hide_modules("torch", "boto3", "google.cloud.storage"):
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.record_writer import masked_crc32c


class EventFile:
    """One event file in `folder`, and another after each error that left a partial record."""

    def __init__(self, folder: AnyPath):
        self._folder, self._count = folder, 0
        self._file: AppendOnlyFile | None = None

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Write a point of each curve, all or none; raises OSError."""
        events = [_event(step, summary.scalar(name, value)) for name, value in values.items()]
        self._write(b"".join(events))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write one image, uint8 (h, w, 3)."""
        self._write(_event(step, summary.image(name, image, dataformats="HWC")))

    def write_text(self, step: int, name: str, markdown: str) -> None:
        """Write a text, which TensorBoard renders as Markdown."""
        self._write(_event(step, summary.text(name, markdown)))

    def flush(self) -> None:
        """Write what was appended to object storage; raises OSError."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, records: bytes) -> None:
        if self._file is None or self._file.is_torn:
            # TensorBoard finds event files by this name pattern
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{self._count}"
            self._count += 1
            file = AppendOnlyFile(self._folder / name)
            file.append(_record(Event(wall_time=time.time(), file_version="brain.Event:2")))
            self._file = file
        self._file.append(records)


def _event(step: int, content: Any) -> bytes:
    return _record(Event(wall_time=time.time(), step=step, summary=content))


def _record(event: Any) -> bytes:
    """Return a TFRecord: length, its checksum, content, its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checks) + data + next(checks)
