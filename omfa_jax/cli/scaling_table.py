"""`omfa scaling table`: a study's progress, and its finished runs as CSV for `omfa scaling fit`."""

import argparse
from collections import Counter

from omfa_jax.cli.flags import parse_any_path_text
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.studies.run_results import collect_rows, get_run_state, read_failure, write_table
from omfa_jax.studies.study_manifest import read_study

HELP = "show a study's progress; write its finished runs as a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling table`."""
    parser.add_argument(
        "study",
        type=parse_any_path_text,
        metavar="STUDY",
        help="study folder (`omfa scaling plan --out`)",
    )
    parser.add_argument(
        "--out",
        type=parse_any_path_text,
        metavar="FILE.csv",
        help="write the finished runs to this file",
    )
    parser.add_argument(
        "--all-rates",
        action="store_true",
        help="keep the runs of all learning rates (default: the best for each size and samples)",
    )


def run(options: argparse.Namespace) -> None:
    """Print the study's progress and write its table."""
    folder = to_path(options.study)
    study = read_study(folder)
    states = {run.name: get_run_state(folder, run) for run in study.runs}
    counts = Counter(states.values())
    print(f"{len(study.runs)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    for run in study.runs:
        if states[run.name] == "failed":
            print(f"  {run.name}: {read_failure(folder, run)}")
    table = collect_rows(study, folder, all_rates=options.all_rates)
    for row in table:
        print(
            f"  {row['name']!s:28}{row['params']:14,}{row['samples']:12,}"
            f"{row['flops']:11.3e}{row['loss']:10.5f}"
        )
    if options.out:
        if not table:
            # an empty table would only fail later, in `omfa scaling fit`
            raise OmfaError(f"{folder}: no run is finished yet; run `omfa scaling run {folder}`")
        write_table(to_path(options.out), table)
        print(f"{options.out}: {len(table)} runs")
