"""`omfa`: the commands, and how their errors reach the terminal."""

import argparse
import importlib
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from omfa_jax import __version__
from omfa_jax.cli.flags import Parser
from omfa_jax.core.errors import OmfaError

# name -> (module with add_arguments and run, help); imported only when the command is given
COMMANDS = {
    "demo": ("omfa_jax.cli.demo", "the whole path in minutes on a laptop, with a report"),
    "data": ("omfa_jax.cli.data", "synthesize, bodies, fit, poses, build, check, latents, show"),
    "train": ("omfa_jax.cli.train", "train a model, or go on training it"),
    "scaling": ("omfa_jax.cli.scaling", "a scaling-law study: plan, run, table, fit, plot, flops"),
    "plan": ("omfa_jax.cli.plan", "memory, FLOPs and traffic of a run on a machine not here"),
    "eval": ("omfa_jax.cli.eval", "scores of any folder of pictures, under a named protocol"),
    "sample": (
        "omfa_jax.cli.sample",
        "pictures from pictures: try_on, try_off, transfer, turntable",
    ),
}


def module_of(command: str, arguments: Sequence[str]) -> tuple[ModuleType, list[str]]:
    """Return the command's module and the arguments that are left for it.

    A module with a `module_for(arguments)` of its own may pass them on to another one.
    """
    module = importlib.import_module(COMMANDS[command][0])
    if hasattr(module, "module_for"):
        name, rest = module.module_for(list(arguments))
        return importlib.import_module(name), rest
    return module, list(arguments)


def parser_for(command: str, arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the argument parser of one command, as `arguments` (those after it) choose it."""
    text = COMMANDS[command][1]
    parser = Parser(prog=f"omfa {command}", description=text, allow_abbrev=False)
    module_of(command, arguments)[0].add_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a fault that the user can mend is printed as one line, exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("absl", "orbax", "jax", "trimesh", "numba", "OpenGL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    table = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="omfa",
        description="Virtual try-on and try-off by partial diffusion.",
        epilog=f"commands:\n{table}\n\n`omfa COMMAND --help` shows a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"omfa_jax {__version__}")
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    command = top.parse_args(arguments[:1]).command
    try:
        parser = parser_for(command, arguments[1:])
        module, words = module_of(command, arguments[1:])
        options, rest = parser.parse_known_args(words)
        takes_config = hasattr(options, "config")
        if rest and not (takes_config and all(flag.startswith("--config.") for flag in rest)):
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
    except OmfaError as error:
        print(f"omfa {command}: {error}", file=sys.stderr)
        return 2
    options.overrides = rest
    try:
        module.run(options)
    except OmfaError as error:
        print(f"omfa {command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            return 128 + signal.SIGPIPE
        # a full disk or a lost mount, wherever it was met
        print(f"omfa {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"omfa {command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        # train.signals.Interrupted, known by what it carries: importing it would load jax
        status = getattr(error, "exit_status", None)
        if status is None:
            raise
        print(f"omfa {command}: {error}", file=sys.stderr)
        return status
    return 0


def reader_left() -> bool:
    """Whether whoever read the output has enough of it, as `| head` does; the rest goes nowhere."""
    output = sys.stdout.fileno()
    poller = select.poll()
    poller.register(output, 0)
    left = any(event & select.POLLERR for _, event in poller.poll(0))
    if left:
        # the interpreter flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return left


if __name__ == "__main__":
    sys.exit(main())
