"""`omfa scaling plan | run | table | fit | plot | flops`: scaling studies."""

import argparse
import importlib

# action -> module with HELP, add_arguments and run; none of them imports jax at import
ACTIONS = {
    "plan": "omfa_jax.cli.scaling_plan",
    "run": "omfa_jax.cli.scaling_run",
    "table": "omfa_jax.cli.scaling_table",
    "fit": "omfa_jax.cli.scaling_fit",
    "plot": "omfa_jax.cli.scaling_plot",
    "flops": "omfa_jax.cli.scaling_flops",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `omfa scaling`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, module in ACTIONS.items():
        action = importlib.import_module(module)
        action.add_arguments(
            commands.add_parser(name, help=action.HELP, description=action.HELP, allow_abbrev=False)
        )


def run(options: argparse.Namespace) -> None:
    """Run the action."""
    importlib.import_module(ACTIONS[options.action]).run(options)
