"""Write shards with the workers of Apache Beam."""

import contextlib
import functools
import io
import logging
import re
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.data.records.shards import Shard, ShardSource, write_shard
from omfa_jax.data.records.staging import StagingFolder

log = logging.getLogger(__name__)

# seconds between two lines about the progress, and without any before it is a warning
PROGRESS_S, STALL_S = 60.0, 600.0

# the last line of a Python traceback, of which Spark's errors have pages of Java's after it
_CAUSE = re.compile(r"^\s*([\w.]*(?:Error|Exception|Interrupt|Exit|KilledWorker): .*)$", re.M)


def write_shards_with_beam(
    partial: StagingFolder, source: ShardSource, shards: Sequence[Shard], options: str
) -> None:
    """Write the shards in a Beam pipeline; `partial` must be a path shared by all workers.

    `options`: Beam's, as on its command line. Raises OmfaError if they are wrong or a shard fails.
    """
    require_modules("--runner beam", "beam", "apache_beam")
    import apache_beam as beam  # type: ignore[import-not-found]

    write = functools.partial(_write, partial, source)
    try:
        with (
            log_progress(partial, len(shards)),
            beam.Pipeline(options=parse_beam_options(options)) as pipeline,
        ):
            _ = (
                pipeline
                | "Shards" >> beam.Create([(shard.file_name, shard) for shard in shards])
                # without it Beam fuses the steps and one worker writes every shard; Reshuffle would
                # do, but runners that are not Beam's own do not have all that it is made of
                | "Spread" >> beam.GroupByKey()
                | "Write" >> beam.Map(write)
            )
    except OmfaError:
        raise
    except Exception as error:  # runners wrap the errors of their workers in own types
        raise OmfaError(f"the Beam pipeline failed: {find_cause(error)}") from error


def parse_beam_options(text: str) -> Any:
    """Return Beam's PipelineOptions; a line for options that nothing known here has.

    Raises OmfaError if they cannot be read, or if there is no such runner.
    """
    from apache_beam.options.pipeline_options import (  # type: ignore[import-not-found]
        PipelineOptions,
        StandardOptions,
    )
    from apache_beam.runners.runner import create_runner  # type: ignore[import-not-found]

    usage, unknown = io.StringIO(), _UnknownOptions()
    beam_log = logging.getLogger("apache_beam.options.pipeline_options")
    beam_log.addFilter(unknown)
    try:
        # argparse prints pages of usage and ends the process
        with contextlib.redirect_stderr(usage):
            options = PipelineOptions(shlex.split(text))
            runner = options.view_as(StandardOptions).runner
            if runner:
                # the module of a runner adds its own options to the known ones
                create_runner(runner)
            unknown.words.clear()
            options.get_all_options()
    except SystemExit:
        reason = usage.getvalue().strip().splitlines()[-1:] or ["no reason given"]
        raise OmfaError(f"--beam-options: {reason[0].rpartition(' error: ')[2]}") from None
    except (AttributeError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise OmfaError(f"--beam-options: {reason}; see docs/records.md for examples") from None
    finally:
        beam_log.removeFilter(unknown)
    if unknown.words:
        log.warning(
            "--beam-options: Beam's Python package has no %s; only a job server may know it",
            ", ".join(dict.fromkeys(unknown.words)),
        )
    return options


def find_cause(error: Exception) -> str:
    """Return what went wrong in a worker, out of an error with tracebacks of several languages."""
    causes = _CAUSE.findall(str(error))
    ours = [cause for cause in causes if "OmfaError: " in cause]
    chosen = (ours or causes or [str(error) or type(error).__name__])[-1]
    return " ".join(chosen.split())[-400:]


@contextlib.contextmanager
def log_progress(partial: StagingFolder, total: int) -> Iterator[None]:
    """Log how many shards have reports while the block runs, and a warning if none are added."""
    done = threading.Event()

    def count() -> int:
        return sum(1 for _ in partial.progress.glob("*.json"))

    def watch() -> None:
        last, since = -1, time.monotonic()
        while not done.wait(PROGRESS_S):
            try:
                found = count()
            except OSError as error:
                log.warning("the finished shards cannot be counted: %s", error)
                continue
            if found != last:
                last, since = found, time.monotonic()
                log.info("%d of %d shards are finished", found, total)
            elif time.monotonic() - since >= STALL_S:
                log.warning(
                    "%d of %d shards are finished, none in the last %.0f minutes: does the runner"
                    " have workers, and are they at work?",
                    found,
                    total,
                    STALL_S / 60,
                )
                since = time.monotonic()

    thread = threading.Thread(target=watch, name="beam-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _write(partial: StagingFolder, source: ShardSource, named: tuple[str, Iterable[Shard]]) -> None:
    for shard in named[1]:
        if write_shard(partial, source, shard) == "rewritten":
            log.warning(
                "%s of an earlier run was rewritten: damaged, or made from other input or settings",
                shard.file_name,
            )


class _UnknownOptions(logging.Filter):
    """Keep Beam's warnings about unknown options, which it repeats, from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("Discarding unparseable args"):
            return True
        for argument in record.args if isinstance(record.args, tuple) else ():
            self.words += argument if isinstance(argument, list) else [str(argument)]
        return False
