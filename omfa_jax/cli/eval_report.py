"""`omfa eval report`: an HTML page and tables from several scores files."""

import argparse
from pathlib import Path

from omfa_jax.cli.flags import SIDE_PX_TYPE, int_between, parse_any_path
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.report.example_gallery import GallerySettings
from omfa_jax.evals.report.report_page import build_report_page
from omfa_jax.evals.report.scores_table import group_scores
from omfa_jax.evals.report.table_exports import format_csv, format_latex
from omfa_jax.evals.scores_file import read_scores

PROG = "omfa eval report"
HELP = "write an HTML page, and tables, from several scores files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval report`."""
    add = parser.add_argument
    add(
        "scores",
        nargs="+",
        type=parse_any_path,
        metavar="FILE.json",
        help="scores files of `omfa eval`",
    )
    add(
        "--out",
        type=parse_any_path,
        required=True,
        metavar="FILE.html",
        help="self-contained page to write",
    )
    add("--latex", type=parse_any_path, metavar="FILE.tex", help="write a LaTeX table (booktabs)")
    add("--csv", type=parse_any_path, metavar="FILE.csv", help="write a CSV table")
    add(
        "--examples-by",
        default="",
        metavar="METRIC[,METRIC]",
        help="rank examples by these metrics (default: the first available of judge, lpips, dists,"
        " ssim, psnr)",
    )
    add(
        "--examples",
        type=int_between(0, 10000),
        default=3,
        metavar="N",
        help="number of best and of worst examples; 0 for none",
    )
    add(
        "--example-height",
        type=SIDE_PX_TYPE,
        default=320,
        metavar="PX",
        help="height of the example images in pixels",
    )


def run(options: argparse.Namespace) -> None:
    """Write the page and the requested tables."""
    # all paths are checked before the scores are read and the images drawn
    outputs = {"--out": options.out, "--latex": options.latex, "--csv": options.csv}
    given = {flag: path for flag, path in outputs.items() if path is not None}
    inputs = {path.resolve() for path in options.scores}
    for flag, path in given.items():
        # a folder of a bucket is there as soon as there is an object in it
        if isinstance(path, Path) and not path.parent.is_dir():
            raise OmfaError(f"{flag}: there is no folder {path.parent}; create it or change {flag}")
        if path.is_dir() or path.resolve() in inputs:
            raise OmfaError(f"{flag} {path}: expected the name of a new file")
    # the last file written would silently replace the other
    if len({path.resolve() for path in given.values()}) < len(given):
        raise OmfaError(f"{', '.join(given)} must be different files")
    scores = [read_scores(path) for path in options.scores]
    beside = [path.parent for path in options.scores]
    metrics = tuple(name.strip() for name in options.examples_by.split(",") if name.strip())
    examples = GallerySettings(metrics, options.examples, options.example_height)
    page = build_report_page(scores, beside=beside, examples=examples)
    groups = group_scores(scores)
    # after the page has been built: an unknown metric is found there, and leaves no tables
    for path, text in ((options.latex, format_latex(groups)), (options.csv, format_csv(groups))):
        if path is not None:
            with atomic_write(path) as temporary:
                # not the locale's encoding: names of methods may have any letters
                temporary.write_text(text, encoding="utf-8")
    page.write(options.out)
    print(f"wrote {', '.join(str(path) for path in given.values())}")
