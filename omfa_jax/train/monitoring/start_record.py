"""A line in the workdir for each start of a run: the code, the versions, the hosts, the devices."""

import importlib.metadata
import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from omfa_jax.core.append_only import AppendOnlyFile
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath

log = logging.getLogger(__name__)

STARTS_FILE = "starts.jsonl"
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "grain"),
    *("array-record", "numpy", "libtpu", "jax-cuda12-plugin", "nvidia-nccl-cu12"),
)


def describe_start(revision: str, hosts: Sequence[str]) -> dict[str, Any]:
    """Return what this start of the run consists of, as JSON types.

    `hosts`: the host of each process, in order.
    """
    kinds = Counter(device.device_kind for device in jax.devices())
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "revision": revision,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _find_version(name))},
        "hosts": list(hosts),
        "processes": jax.process_count(),
        "devices": {f"{jax.default_backend()} {kind}": count for kind, count in kinds.items()},
    }


def record_start(workdir: AnyPath, revision: str, hosts: Sequence[str]) -> None:
    """Append a line to workdir/starts.jsonl, and log what it says; a full disk is only a warning.

    Process 0 of a job calls this.
    """
    start = describe_start(revision, hosts)
    devices = ", ".join(f"{count} x {kind}" for kind, count in start["devices"].items())
    where = f"{len(hosts)} processes on {', '.join(sorted(set(hosts)))}" if hosts[1:] else hosts[0]
    log.info("omfa_jax %s; jax %s; %s; %s", revision, jax.__version__, where, devices)
    try:
        file = AppendOnlyFile(workdir / STARTS_FILE, lines=True)
        file.append(json.dumps(start).encode() + b"\n")
        file.close()
    except (OSError, OmfaError) as error:
        log.warning("cannot write %s: %s; training continues", workdir / STARTS_FILE, error)


def _find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
