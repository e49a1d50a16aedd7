"""Retries of reads that fail with a transient fault, such as one of a network file system."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from omfa_jax.core.exit_status import classify_error, is_transient

log = logging.getLogger(__name__)

RunResult = TypeVar("RunResult")

# seconds before the second try, the third, ...: in total longer than the failover of a file server
# takes, and shorter than a scheduler's timeout for a job without output
BACKOFF_S = (1.0, 4.0, 15.0, 40.0)


def call_with_retries(what: str, read: Callable[[], RunResult]) -> RunResult:
    """Return `read()`, called again after a transient fault, with a warning that names `what`.

    `read` must be safe to repeat. The error of the last try is raised unchanged.
    """
    for wait in BACKOFF_S:
        try:
            return read()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning(
                "%s: %s (%s); retrying in %g s",
                what,
                error,
                classify_error(error).description,
                wait,
            )
        time.sleep(wait)
    return read()
