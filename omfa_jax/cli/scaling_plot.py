"""`omfa scaling plot`: plot a fit of `omfa scaling fit`."""

import argparse
import logging

from omfa_jax.cli.flags import parse_any_path, parse_any_path_text
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file

log = logging.getLogger(__name__)

HELP = "plot a fit of `omfa scaling fit --out`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling plot`."""
    parser.add_argument(
        "--fit",
        required=True,
        type=parse_any_path_text,
        metavar="FILE.json",
        help="output of `omfa scaling fit --out`",
    )
    parser.add_argument(
        "--out",
        required=True,
        nargs="+",
        type=parse_any_path,
        metavar="FILE",
        help="files to write: .png and/or self-contained .html",
    )


def run(options: argparse.Namespace) -> None:
    """Plot the fit."""
    require_modules("omfa scaling plot", "scaling", "matplotlib")
    from omfa_jax.studies.fit_record import FORMAT
    from omfa_jax.studies.study_page import build_study_page
    from omfa_jax.studies.study_plot import draw_study

    path = require_any_file(options.fit, "fit", "--fit")
    try:
        data = parse_json(path.read_text())
    except ValueError:
        data = None
    # records of an older version lack figures that the plots draw
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise OmfaError(
            f"{path} is not an output of this version's `omfa scaling fit --out`; change --fit,"
            " or fit again"
        )
    for out in options.out:
        require_disjoint(out, {"--fit": path})
        if out.suffix not in (".png", ".html"):
            raise OmfaError(f"--out: expected a name that ends in .png or .html, got {out}")
    for out in options.out:
        if out.suffix == ".html":
            build_study_page(data).write(out)
        else:
            with atomic_write(out) as file:
                file.write_bytes(draw_study(data, "png"))
        log.info("wrote %s", out)
