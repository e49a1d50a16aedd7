"""The table of importers, keyed by the values of `--from`."""

from collections.abc import Callable
from pathlib import Path

from omfa_jax.body.importers.amass import AmassImporter
from omfa_jax.body.importers.champ import ChampImporter
from omfa_jax.body.importers.easymocap import EasyMocapImporter
from omfa_jax.body.importers.importer_common import BodyImporter, ImportOptions
from omfa_jax.body.importers.multihmr import MultiHmrImporter
from omfa_jax.body.importers.phalp import PhalpImporter
from omfa_jax.body.importers.romp import RompImporter
from omfa_jax.body.importers.smplerx import SmplerXImporter
from omfa_jax.body.importers.smplifyx import SmplifyXImporter
from omfa_jax.body.importers.smplx_params import SmplxImporter
from omfa_jax.body.importers.video_bodies import GvhmrImporter, TramImporter, WhamImporter

# whose files have many frames, from which --frame chooses
MOTION_SOURCES = ("amass", "gvhmr", "tram", "wham")

IMPORTERS: dict[str, Callable[[Path, ImportOptions], BodyImporter]] = {
    "amass": AmassImporter,
    "champ": ChampImporter,
    "easymocap": EasyMocapImporter,
    "gvhmr": GvhmrImporter,
    "hmr2": ChampImporter,
    "multihmr": MultiHmrImporter,
    "phalp": PhalpImporter,
    "romp": RompImporter,
    "smplerx": SmplerXImporter,
    "smplifyx": SmplifyXImporter,
    "smplx": SmplxImporter,
    "tram": TramImporter,
    "wham": WhamImporter,
}
