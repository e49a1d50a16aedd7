"""The table of importers, keyed by the values of `--from`."""

from collections.abc import Callable
from pathlib import Path

from omfa_jax.body.importers.champ import Champ
from omfa_jax.body.importers.common import Reading, Source
from omfa_jax.body.importers.multihmr import MultiHmr
from omfa_jax.body.importers.phalp import Phalp
from omfa_jax.body.importers.smplerx import SmplerX
from omfa_jax.body.importers.smplx_params import SmplxParams

SOURCES: dict[str, Callable[[Path, Reading], Source]] = {
    "champ": Champ,
    "phalp": Phalp,
    "smplerx": SmplerX,
    "multihmr": MultiHmr,
    "smplx": SmplxParams,
}
