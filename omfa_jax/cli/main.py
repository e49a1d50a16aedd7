"""`omfa`: the commands, and how their errors reach the terminal."""

import argparse
import contextlib
import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from omfa_jax import __version__
from omfa_jax.cli.flags import Parser, refuse_renamed_flags
from omfa_jax.cli.logs import set_up_logs
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import RESTART, UNFORESEEN, row_of
from omfa_jax.parallel.flags import set_flags

# how much of a library's message is shown, in characters
LINE = 400

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
    """Run one command; a fault is printed as one line, with a status of `core.exit_status`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logs()
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
        refuse_renamed_flags(command, arguments[1:])
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
    joins = getattr(module, "JOINS", False)
    try:
        # every command that starts a GPU gets the memory that `omfa plan` counts on
        set_flags()
        module.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        say(f"omfa {command}: interrupted")
        return left(130, "interrupted", joins=joins)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            return 128 + signal.SIGPIPE
        return ended(command, error, joins=joins)
    return 0


def ended(command: str, error: Exception, *, joins: bool) -> int:
    """Say how a command failed; return its exit status, by the table of `core.exit_status`.

    `joins`: the command may be one process of a job of several, which then all end with it.
    """
    # train.signals.Interrupted, known by what it carries: importing it would load jax
    status = getattr(error, "exit_status", None)
    if status is not None:
        say(f"omfa {command}: {error}")
        return status
    row = row_of(error)
    line = str(error) or type(error).__name__
    if not isinstance(error, OmfaError | OSError):
        # other libraries' errors are long, and say where they came from in their traceback alone
        line = f"{type(error).__name__}: {' '.join(line.split())[:LINE]}"
    if row.xla or row.status == UNFORESEEN:
        say("".join(traceback.format_exception(error)).rstrip())
    advice = f" ({row.fault}: a restart may mend it)" if row.status == RESTART else ""
    if row.status != UNFORESEEN:
        say(f"omfa {command}: {line}{advice}")
    return left(row.status, line, joins=joins)


def left(status: int, line: str, *, joins: bool) -> int:
    """Return `status` for this process to end with; the others of its job end with it."""
    try:
        sys.stdout.flush()
    except OSError:
        # a file on a full disk: the interpreter would flush once more, and end with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not joins:
        return status
    from omfa_jax.parallel import distributed

    return distributed.end(status, line)


def say(text: str) -> None:
    """Print to standard error, if it takes anything: the exit status must come out in any case."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


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
