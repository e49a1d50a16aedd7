"""`omfa scaling fit`: fit loss laws to a table of runs."""

import argparse
import json
import logging

from omfa_jax.cli.flags import (
    SEED_TYPE,
    float_between,
    int_between,
    parse_any_path,
    parse_any_path_text,
)
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, require_modules

log = logging.getLogger(__name__)

HELP = "fit loss laws to a table of finished runs, with confidence intervals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling fit`."""
    parser.add_argument(
        "--table",
        required=True,
        type=parse_any_path_text,
        metavar="FILE",
        help="table of runs: CSV, TSV or JSON lines",
    )
    for name, text in (
        ("params", "parameters"),
        ("samples", "samples or tokens seen"),
        ("loss", "final loss"),
        ("flops", "training FLOPs; 6 * params * samples if the table has none"),
        ("unique", "distinct samples, for runs with repeated samples"),
    ):
        parser.add_argument(
            f"--{name}-column", metavar="NAME", help=f"column of {text} (default: found by name)"
        )
    parser.add_argument(
        "--flops-per-param-sample",
        type=float_between(0, 1e12, above=True),
        metavar="K",
        help="compute FLOPs as K * params * samples, even if the table has them (6 for"
        " transformers)",
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        default=[],
        metavar="FLOPS",
        help="predict the optimal params and samples for these training FLOPs, e.g. 1e21 2e22",
    )
    parser.add_argument(
        "--predict",
        nargs="+",
        default=[],
        metavar="PARAMS,SAMPLES",
        help="predict the loss of these runs, e.g. 1.3e9,2e7",
    )
    parser.add_argument(
        "--dataset-size", metavar="N", help="also predict the optimum with N distinct samples"
    )
    parser.add_argument(
        "--no-irreducible", action="store_true", help="fix the irreducible loss E at 0"
    )
    parser.add_argument(
        "--max-loss",
        type=float_between(0, 1e30, above=True),
        metavar="X",
        help="exclude runs with a higher loss",
    )
    parser.add_argument(
        "--drop-highest",
        type=int_between(),
        default=0,
        metavar="K",
        help="exclude the K runs with the highest loss",
    )
    parser.add_argument(
        "--outlier-mad",
        type=float_between(0, 1e6, above=True),
        metavar="K",
        help="exclude runs more than K robust standard deviations from a first fit, and refit",
    )
    parser.add_argument(
        "--isoflop-tolerance",
        type=float_between(0, 1, above=True, below=True),
        default=0.1,
        metavar="X",
        help="relative difference in FLOPs up to which runs share a budget",
    )
    parser.add_argument(
        "--hold-out",
        type=float_between(0, 0.9, above=True, below=True),
        default=0.2,
        metavar="X",
        help="fraction of the runs to hold out (those with the most compute)",
    )
    parser.add_argument(
        "--resamples",
        type=int_between(100, 10**6),
        default=500,
        help="bootstrap resamples",
    )
    parser.add_argument("--seed", type=SEED_TYPE, default=0, help="seed of the bootstrap")
    parser.add_argument(
        "--out",
        type=parse_any_path,
        metavar="FILE.json",
        help="also write the fit as JSON, for `omfa scaling plot`",
    )


def run(options: argparse.Namespace) -> None:
    """Print and write a fit; raise an OmfaError at the end if the runs do not support a law."""
    require_modules("omfa scaling fit", "scaling", "scipy")
    from omfa_jax.studies.fit_record import make_record
    from omfa_jax.studies.fit_report import format_report
    from omfa_jax.studies.fit_scaling import LawFitSettings, fit_scaling
    from omfa_jax.studies.run_cleaning import CleaningRules
    from omfa_jax.studies.runs_table import COLUMN_NAMES, read_runs_table

    if options.out is not None:
        # writing the fit over the table would lose the runs
        require_disjoint(options.out, {"--table": options.table})
    given = {name: getattr(options, f"{name}_column") for name in COLUMN_NAMES}
    table = read_runs_table(
        options.table,
        columns={name: column for name, column in given.items() if column is not None},
        flops_per_param_sample=options.flops_per_param_sample,
    )
    settings = LawFitSettings(
        rules=CleaningRules(options.max_loss, options.drop_highest, options.outlier_mad),
        irreducible=not options.no_irreducible,
        resamples=options.resamples,
        seed=options.seed,
        isoflop_tolerance=options.isoflop_tolerance,
        hold_out=options.hold_out,
        budgets=tuple(parse_flag_number(text, "--budget") for text in options.budget),
        unique=None
        if options.dataset_size is None
        else parse_flag_number(options.dataset_size, "--dataset-size"),
        predict=tuple(parse_run(text) for text in options.predict),
    )
    found = fit_scaling(table, settings)
    # also of a refused law: the report has the excluded runs and the other approaches
    print(format_report(found))
    if options.out is not None:
        # JSON has no NaN: one that slipped through would fail in other readers
        with atomic_write(options.out) as path:
            path.write_text(json.dumps(make_record(found), indent=1, allow_nan=False) + "\n")
        log.info("wrote %s", options.out)
    if found.refused is not None:
        raise OmfaError(f"{options.table}: no law can be fitted: {found.refused}")


def parse_run(text: str) -> tuple[float, float]:
    """Parse the parameters and samples of a run to predict."""
    numbers = [parse_flag_number(one, "--predict") for one in text.split(",")]
    if len(numbers) != 2:
        raise OmfaError(f"--predict: expected PARAMS,SAMPLES such as 1.3e9,2e7, got {text!r}")
    return numbers[0], numbers[1]


def parse_flag_number(text: str, flag: str) -> float:
    """Parse a flag's number, which may have a unit suffix."""
    from omfa_jax.studies.runs_table import parse_number

    try:
        return parse_number(text)
    except ValueError as error:
        raise OmfaError(f"{flag}: {error}") from None
