"""The output folder of a command that may be one of several processes."""

import argparse
import contextlib
import json
from collections.abc import Iterator

from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock
from omfa_jax.core.code_revision import get_code_revision
from omfa_jax.core.paths import AnyPath


@contextlib.contextmanager
def join_and_lock(options: argparse.Namespace, out: AnyPath) -> Iterator[None]:
    """Join the job's processes, then keep `out`, locked by process 0, until the end.

    Raises OmfaError if another run uses the folder, or code or flags differ between processes.
    """
    import jax

    from omfa_jax.parallel import distributed

    distributed.initialize(out)
    # as text, because paths are not JSON
    flags = {name: str(value) for name, value in vars(options).items()}
    facts = {"the code's revision": get_code_revision(), "the flags": json.dumps(flags)}
    distributed.check_equal_across_processes(facts)
    refusal = f"another run is using {out}: stop it, or give another folder to --out"
    lock = exclusive_lock(out / LOCK_NAME, refusal)
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        yield
