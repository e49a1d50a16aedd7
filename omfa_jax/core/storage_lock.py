"""One user at a time of a folder in object storage, which has no locks.

The lock of a folder is the object with the highest number below `.lock/`. Taking it means creating
the next number, which the store grants to one of several (`RemotePath.create`); the number is a
fencing token. The holder rewrites a heartbeat beside it. Whoever wants the lock of a living holder
is refused. A holder is dead if its process is gone from this host, or if its heartbeat has not
changed while the other watched it for `LOST_AFTER_S`: no clocks are compared. A holder that finds a
higher number was taken for dead, and ends at once: another run writes there.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import RESTART
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.remote_path import RemotePath

log = logging.getLogger(__name__)

LOCK_FOLDER = ".lock"
BEAT_S = 10.0
# six beats: longer than the clients' own retries of a request
LOST_AFTER_S = 60.0
_DIGITS = 9


@dataclass
class _Held:
    number: int
    holder: dict
    beat: bytes

    @property
    def text(self) -> str:
        user = self.holder
        return f"process {user.get('process', '?')} of {user.get('host', '?')}"


@contextlib.contextmanager
def storage_lock(
    folder: RemotePath, refusal: str, beat_s: float = BEAT_S, lost_after_s: float = LOST_AFTER_S
) -> Iterator[None]:
    """Hold the lock of a folder; OmfaError(`refusal`) while another living process has it."""
    place = folder / LOCK_FOLDER
    number = _acquire(place, refusal, lost_after_s)
    stop = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(place, number, stop, beat_s), name="storage lock", daemon=True
    )
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join()
        with contextlib.suppress(OSError):
            _write_beat(place, number, 0, "released")


def is_storage_locked(folder: RemotePath) -> bool:
    """Return True if the folder's lock is held and its holder is not known to be dead."""
    held = _read(folder / LOCK_FOLDER)
    return held is not None and not _is_released(held) and not _is_gone_from_host(held)


def _acquire(place: RemotePath, refusal: str, lost_after_s: float) -> int:
    seen: _Held | None = None
    since = time.monotonic()
    while True:
        held = _read(place)
        if held is None or _is_released(held) or _is_gone_from_host(held):
            if number := _take(place, held):
                return number
            continue
        if seen is None or held.number != seen.number:
            seen, since = held, time.monotonic()
            log.info("%s has the lock of %s; is it alive?", held.text, place.parent)
        elif held.beat != seen.beat:
            raise OmfaError(f"{refusal} ({held.text} has it)")
        elif time.monotonic() - since > lost_after_s:
            log.warning(
                "%s had the lock of %s and gave no sign of life for %.0f s: it is taken over",
                *(held.text, place.parent, lost_after_s),
            )
            if number := _take(place, held):
                return number
        time.sleep(min(1.0, lost_after_s / 10))


def _take(place: RemotePath, held: _Held | None) -> int:
    """Return the number of the lock now ours; 0 if another process was faster."""
    number = held.number + 1 if held else 1
    holder = {"host": socket.gethostname(), "boot": _get_boot(), "process": os.getpid()}
    data = json.dumps({**holder, "token": os.urandom(8).hex()}).encode()
    # the token: if the answer to our own request was lost, its repetition is refused
    if not (place / _name(number)).create(data) and (place / _name(number)).read_bytes() != data:
        return 0
    _write_beat(place, number, 0, "held")
    # the highest number stays for ever: it is what the next one counts from
    for name in place.list_tree():
        if name.split(".")[0] < _name(number):
            (place / name).unlink(missing_ok=True)
    return number


def _beat(place: RemotePath, number: int, stop: threading.Event, beat_s: float) -> None:
    count = 0
    while not stop.wait(beat_s):
        count += 1
        try:
            held = _read(place)
            if held is not None and held.number > number:
                _end(place, held)
            _write_beat(place, number, count, "held")
        except OSError as error:
            log.warning("cannot renew the lock of %s: %s", place.parent, error)


def _end(place: RemotePath, held: _Held) -> None:
    log.critical(
        "%s took over the lock of %s, because this process gave no sign of life; it ends without"
        " a save",
        *(held.text, place.parent),
    )
    os._exit(RESTART)


def _read(place: RemotePath) -> _Held | None:
    try:
        numbers = [name for name, _ in place.list_sizes() if "." not in name]
        if not numbers:
            return None
        holder = parse_json((place / max(numbers)).read_bytes() or b"{}")
    except FileNotFoundError:
        return None
    except ValueError:
        holder = {}
    try:
        beat = (place / f"{max(numbers)}.beat").read_bytes()
    except FileNotFoundError:
        # its holder is about to write the first
        beat = b""
    return _Held(int(max(numbers)), holder, beat)


def _write_beat(place: RemotePath, number: int, count: int, state: str) -> None:
    (place / f"{_name(number)}.beat").write_text(f"{state} {count}\n")


def _is_released(held: _Held) -> bool:
    return held.beat.startswith(b"released")


def _is_gone_from_host(held: _Held) -> bool:
    """Return True if the holder was a process of this host, since its last start, that ended."""
    holder = held.holder
    if (holder.get("host"), holder.get("boot")) != (socket.gethostname(), _get_boot()):
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError):
        return False
    return False


def _get_boot() -> str:
    """Return what tells this host, since its start, and this container from others."""
    found = ""
    with contextlib.suppress(OSError):
        found = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found += f" {os.readlink('/proc/self/ns/pid')}"
    return found


def _name(number: int) -> str:
    return f"{number:0{_DIGITS}d}"
