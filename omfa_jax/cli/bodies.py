"""`omfa data bodies`: other tools' body parameters, as the files that `omfa data poses` renders."""

import argparse
import logging
from pathlib import Path

from omfa_jax.cli.flags import path_text
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import require_dir

log = logging.getLogger(__name__)

HELP = "import body parameters of another tool (--from) to SPLIT/smplx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data bodies`."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="TOOL",
        help="champ or phalp (4D-Humans), smplerx, multihmr, or smplx (plain parameters)",
    )
    parser.add_argument(
        "--in",
        dest="path",
        required=True,
        type=path_text,
        metavar="PATH",
        help="its file or folder; docs/bodies.md",
    )
    parser.add_argument(
        "--raw", required=True, type=path_text, metavar="DIR", help="raw data set folder"
    )
    parser.add_argument("--split", metavar="NAME", help="default: every folder with photos")
    parser.add_argument(
        "--smplx-model",
        type=path_text,
        metavar="FILE",
        help="SMPL-X .npz that the bodies are for, as in `omfa data poses`; default: the free body",
    )
    parser.add_argument(
        "--smpl-to-smplx",
        default="copy21",
        metavar="WAY",
        help="copy21 (approximate) or fit (mesh to mesh; needs the models' files)",
    )
    parser.add_argument("--smpl-model", type=path_text, metavar="FILE", help="SMPL .npz or .pkl")
    parser.add_argument(
        "--correspondence",
        type=path_text,
        metavar="FILE",
        help="smpl2smplx_deftrafo_setup.pkl, or identity",
    )
    parser.add_argument(
        "--hands",
        default="flat",
        metavar="ZERO",
        help="what zero hand poses mean in plain smplx files: flat or mean (smplx's default)",
    )
    parser.add_argument("--allow-pickle", action="store_true", help="read pickles, of data alone")
    parser.add_argument("--overwrite", action="store_true", help="replace bodies that are there")


def run(options: argparse.Namespace) -> None:
    """Import and say what was left out; any failure is an error at the end."""
    from omfa_jax.body.hands import load_hands
    from omfa_jax.body.import_folder import import_bodies
    from omfa_jax.body.importers.common import Reading
    from omfa_jax.body.importers.sources import SOURCES
    from omfa_jax.body.model import load_model
    from omfa_jax.body.smpl_to_smplx import load_conversion

    if options.source not in SOURCES:
        raise unknown("tool (--from)", options.source, SOURCES)
    if options.hands not in ("flat", "mean"):
        raise unknown("hand pose (--hands)", options.hands, ("flat", "mean"))
    require_dir(options.raw, "raw data set", "--raw")
    model = load_model(options.smplx_model)
    convert = load_conversion(
        options.smpl_to_smplx,
        model,
        smpl_path=options.smpl_model,
        correspondence_path=options.correspondence,
        has_smplx_file=options.smplx_model is not None,
        trust=options.allow_pickle,
    )
    reading = Reading(
        trust=options.allow_pickle,
        model=model,
        hands=load_hands(options.smplx_model),
        hands_from_mean=options.hands == "mean",
    )
    source = SOURCES[options.source](Path(options.path).expanduser(), reading)
    report = import_bodies(
        source, options.raw, convert, split=options.split, overwrite=options.overwrite
    )
    log.info("%s: %s", options.source, report)
    if options.smplx_model is None:
        log.warning(_FREE_BODY)
    if report.failed:
        raise OmfaError(f"{len(report.failed)} bodies could not be imported; they are listed above")


_FREE_BODY = (
    "without --smplx-model the bodies are placed for the free body: its shapes are not SMPL-X's,"
    " and relaxed hands (SMPLer-X, --hands mean) stay flat; give the model that `omfa data poses`"
    " gets"
)
