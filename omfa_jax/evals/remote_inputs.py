"""Image folders in object storage, copied once for scoring, which reads images several times."""

import contextlib
import dataclasses
from collections.abc import Iterator

from omfa_jax.core.path_checks import require_any_dir, require_any_file
from omfa_jax.core.paths import is_remote, local_copy, local_copy_of_folder
from omfa_jax.evals.folder_scoring import ScoreRequest

FOLDERS, LISTS = ("pred", "gt", "garments"), ("pairs", "categories")
INPUTS = (*FOLDERS, *LISTS)


@contextlib.contextmanager
def copy_inputs(request: ScoreRequest) -> Iterator[ScoreRequest]:
    """Yield the request with copies of its remote folders and lists, deleted at the end.

    The scores name the originals.
    """
    with contextlib.ExitStack() as copies:
        made, originals = {}, {}
        for name in INPUTS:
            path = getattr(request, name)
            if path is None or not is_remote(path):
                continue
            if name in FOLDERS:
                place = require_any_dir(path, name, f"--{name}")
                local = copies.enter_context(local_copy_of_folder(place))
            else:
                place = require_any_file(path, name, f"--{name}")
                local = copies.enter_context(local_copy(place))
            made[name], originals[local] = local, str(path)
        yield dataclasses.replace(request, **made, originals=originals)
