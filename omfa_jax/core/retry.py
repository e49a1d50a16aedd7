"""Reads that are tried again where they met what passes: a network file system that hesitates."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from omfa_jax.core.exit_status import is_transient, row_of

log = logging.getLogger(__name__)

Made = TypeVar("Made")

# seconds before the second try, the third, ...: together longer than a file server takes to fail
# over to its twin, shorter than a scheduler's patience with a silent job
WAITS_S = (1.0, 4.0, 15.0, 40.0)


def retried(what: str, read: Callable[[], Made]) -> Made:
    """Return what `read` does; a fault that may pass is waited for and said, `what` in the line.

    `read` must do no harm when it is done twice. The last try's error is raised as it is.
    """
    for wait in WAITS_S:
        try:
            return read()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("%s: %s (%s); tried again in %g s", what, error, row_of(error).fault, wait)
        time.sleep(wait)
    return read()
