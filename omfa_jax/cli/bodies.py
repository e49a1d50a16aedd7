"""`omfa data bodies`: import body parameters from other tools for `omfa data poses`."""

import argparse
import logging

from omfa_jax.cli.flags import int_between, parse_any_path_text
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import local_copy, local_copy_of_folder, to_path

log = logging.getLogger(__name__)

HELP = "import body parameters from other tools into SPLIT/smplx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data bodies`."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="TOOL",
        help="tool: amass (also BEAT), champ, easymocap, gvhmr, hmr2 (4D-Humans), multihmr, phalp,"
        " romp (also BEV), smplerx, smplifyx, smplx (plain parameters), tram, or wham",
    )
    parser.add_argument(
        "--in",
        dest="path",
        required=True,
        type=parse_any_path_text,
        metavar="PATH",
        help="output file or folder of the tool (docs/bodies.md)",
    )
    parser.add_argument(
        "--raw", required=True, type=parse_any_path_text, metavar="DIR", help="raw data set folder"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="split to import into (default: every folder with photos)"
    )
    parser.add_argument(
        "--smplx-model",
        type=parse_any_path_text,
        metavar="FILE",
        help="SMPL-X .npz of the bodies, as for `omfa data poses` (default: the free body)",
    )
    parser.add_argument(
        "--smpl-to-smplx",
        default="copy21",
        metavar="WAY",
        help="how to convert SMPL bodies: copy21 copies joint rotations (approximate), fit fits the"
        " mesh and needs --smpl-model and --correspondence",
    )
    parser.add_argument(
        "--smpl-model",
        type=parse_any_path_text,
        metavar="FILE",
        help="SMPL model (.npz or .pkl), for --smpl-to-smplx fit",
    )
    parser.add_argument(
        "--correspondence",
        type=parse_any_path_text,
        metavar="FILE",
        help="smpl2smplx_deftrafo_setup.pkl, or identity, for --smpl-to-smplx fit",
    )
    parser.add_argument(
        "--hands",
        default="flat",
        metavar="ZERO",
        help="meaning of zero hand poses in plain smplx and AMASS files: flat, or mean as in smplx"
        " and BEAT (default: %(default)s)",
    )
    parser.add_argument(
        "--frame",
        type=int_between(),
        metavar="N",
        help="frame of a motion to import, counted from 0 (default: the only one; of a video, the"
        " frame whose number ends the photo's name)",
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read pickles, restricted to data types"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing bodies")


def run(options: argparse.Namespace) -> None:
    """Import the bodies, and log what was skipped; raise an OmfaError at the end on failures."""
    from omfa_jax.body.body_model import load_body_model
    from omfa_jax.body.hand_pose import load_hand_basis
    from omfa_jax.body.import_bodies import import_bodies
    from omfa_jax.body.importers.importer_common import ImportOptions
    from omfa_jax.body.importers.importer_table import IMPORTERS, MOTION_SOURCES
    from omfa_jax.body.smpl_to_smplx import load_converter

    if options.source not in IMPORTERS:
        raise make_unknown_name_error("tool (--from)", options.source, IMPORTERS)
    if options.hands not in ("flat", "mean"):
        raise make_unknown_name_error("hand pose (--hands)", options.hands, ("flat", "mean"))
    # before the body model is loaded, which takes longer
    if options.frame is not None and options.source not in MOTION_SOURCES:
        raise OmfaError(f"--frame applies to --from {', '.join(MOTION_SOURCES)} only; remove it")
    require_any_dir(options.raw, "raw data set", "--raw")
    model = load_body_model(options.smplx_model)
    convert = load_converter(
        options.smpl_to_smplx,
        model,
        smpl_path=options.smpl_model,
        correspondence_path=options.correspondence,
        has_smplx_file=options.smplx_model is not None,
        allow_pickle=options.allow_pickle,
    )
    reading = ImportOptions(
        allow_pickle=options.allow_pickle,
        model=model,
        hands=load_hand_basis(options.smplx_model),
        hands_from_mean=options.hands == "mean",
        frame=options.frame,
    )
    # the tools' own readers open files of this machine, also those beside the one that is named
    given = to_path(options.path)
    with local_copy(given) if given.is_file() else local_copy_of_folder(given) as path:
        source = IMPORTERS[options.source](path, reading)
        chosen = {"split": options.split, "overwrite": options.overwrite}
        report = import_bodies(source, options.raw, convert, **chosen)
    log.info("%s: %s", options.source, report)
    # a warning and not an error: the free body is good enough to try a data set
    if options.smplx_model is None:
        log.warning(_FREE_BODY)
    if report.failed:
        raise OmfaError(f"{len(report.failed)} bodies could not be imported, listed above")


_FREE_BODY = (
    "without --smplx-model the bodies are placed for the free body: its shapes are not SMPL-X's,"
    " and relaxed hands (SMPLer-X, --hands mean) stay flat; pass the --smplx-model that you will"
    " pass to `omfa data poses`"
)
