"""Retries of reads that fail with a transient fault, such as one of a network file system."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from omfa_jax.core.exit_status import is_transient, row_of

log = logging.getLogger(__name__)

Made = TypeVar("Made")

# seconds before the second try, the third, ...: in total longer than the failover of a file server
# takes, and shorter than a scheduler's timeout for a job without output
WAITS_S = (1.0, 4.0, 15.0, 40.0)


def retried(what: str, read: Callable[[], Made]) -> Made:
    """Return `read()`, called again after a transient fault, with a warning that names `what`.

    `read` must be safe to repeat. The error of the last try is raised unchanged.
    """
    for wait in WAITS_S:
        try:
            return read()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("%s: %s (%s); retrying in %g s", what, error, row_of(error).fault, wait)
        time.sleep(wait)
    return read()
