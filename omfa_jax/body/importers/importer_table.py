"""The table of importers, keyed by the values of `--from`."""

from collections.abc import Callable
from pathlib import Path

from omfa_jax.body.importers.champ import ChampImporter
from omfa_jax.body.importers.importer_common import BodyImporter, ImportOptions
from omfa_jax.body.importers.multihmr import MultiHmrImporter
from omfa_jax.body.importers.phalp import PhalpImporter
from omfa_jax.body.importers.smplerx import SmplerXImporter
from omfa_jax.body.importers.smplx_params import SmplxImporter

IMPORTERS: dict[str, Callable[[Path, ImportOptions], BodyImporter]] = {
    "champ": ChampImporter,
    "phalp": PhalpImporter,
    "smplerx": SmplerXImporter,
    "multihmr": MultiHmrImporter,
    "smplx": SmplxImporter,
}
