"""Reads TensorBoard's event files."""

import struct

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c


def read_events(folder):
    """Read event files as TensorBoard does: it stops at a checksum that is wrong."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            content, checks = data[12 : 12 + length], (data[8:12], data[12 + length : 16 + length])
            for part, check in zip((data[:8], content), checks, strict=True):
                assert struct.unpack("<I", check) == (masked_crc32c(part),)
            yield Event.FromString(content)
            data = data[16 + length :]
