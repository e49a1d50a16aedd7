"""`omfa`: dispatch to the commands, and report their errors."""

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
from omfa_jax.cli.config_flag import PRINT_FLAG, print_config, require_config_only
from omfa_jax.cli.flags import Parser, refuse_renamed_flags
from omfa_jax.cli.logs import set_up_logs
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import OPEN_FILES, RESTART, UNEXPECTED, classify_error
from omfa_jax.core.log_lines import format_prefix
from omfa_jax.core.startup_signals import restore_signals, watch_startup_signals
from omfa_jax.parallel.xla_flags import set_xla_flags

# longest error message of another library that is printed, in characters
MAX_MESSAGE_CHARS = 400

# commands that a scheduler stops with a signal, and that end with one status at any time
STOPPED = {"train"}
# name -> (module with add_arguments and run, help); a module is imported only for its command
COMMANDS = {
    "demo": (
        "omfa_jax.cli.demo_command",
        "run the complete pipeline on a laptop and write a report",
    ),
    "data": ("omfa_jax.cli.data", "make, convert, check and show data sets"),
    "train": ("omfa_jax.cli.train", "train a model, or resume training"),
    "scaling": ("omfa_jax.cli.scaling", "run a scaling-law study"),
    "plan": ("omfa_jax.cli.plan_command", "estimate memory, FLOPs and communication of a run"),
    "eval": (
        "omfa_jax.cli.eval",
        "score images or a checkpoint, or report scores",
    ),
    "sample": ("omfa_jax.cli.sample", "generate images with a trained model"),
    "app": ("omfa_jax.cli.app", "serve a web page that makes pictures from two photos"),
}


def choose_module(command: str, arguments: Sequence[str]) -> tuple[ModuleType, list[str]]:
    """Return the command's module and the arguments that are left for it.

    A module that defines `choose_module(arguments)` may select another module.
    """
    module = importlib.import_module(COMMANDS[command][0])
    if hasattr(module, "choose_module"):
        name, rest = module.choose_module(list(arguments))
        return importlib.import_module(name), rest
    return module, list(arguments)


def make_parser(command: str, arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a command's argument parser; `arguments`, those after it, may select a variant."""
    module = choose_module(command, arguments)[0]
    # a variant of a command has its own description, and a subcommand its own name
    text = getattr(module, "HELP", COMMANDS[command][1])
    prog = getattr(module, "PROG", f"omfa {command}")
    parser = Parser(prog=prog, description=text, allow_abbrev=False)
    module.add_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors are one line on stderr, with a status of `core.exit_status`."""
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
    if command in STOPPED:
        # before the imports, which take seconds
        watch_startup_signals()
    try:
        return run_command(command, arguments)
    finally:
        restore_signals()


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Run one command with its name among the arguments; return the exit status."""
    try:
        refuse_renamed_flags(command, arguments[1:])
        parser = make_parser(command, arguments[1:])
        module, words = choose_module(command, arguments[1:])
        if PRINT_FLAG in words:
            require_config_only(parser)
        options, rest = parser.parse_known_args(words)
        # commands with a config take its overrides, and others must not ignore a misspelt flag
        takes_config = hasattr(options, "config")
        if rest and not (takes_config and all(flag.startswith("--config.") for flag in rest)):
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
    except OmfaError as error:
        print(f"omfa {command}: {error}", file=sys.stderr)
        return 2
    options.overrides = rest
    joins = getattr(module, "JOINS", False)
    try:
        if getattr(options, "print_config", False):
            print_config(options)
            return 0
        # before JAX starts: XLA's flags and the share of GPU memory that `omfa plan` assumes
        set_xla_flags()
        module.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print_error(f"omfa {command}: interrupted")
        return exit_job(130, "interrupted", joins=joins)
    except Exception as error:
        # the reader, such as `| head`, has seen enough: no message, and a shell's status for that
        if isinstance(error, BrokenPipeError) and is_stdout_closed():
            return 128 + signal.SIGPIPE
        return report_error(command, error, joins=joins)
    return 0


def report_error(command: str, error: Exception, *, joins: bool) -> int:
    """Print how a command failed, and return its exit status by the table of `core.exit_status`.

    `joins`: the command may be one process of a distributed job, whose other processes end too.
    """
    # train.signals.Interrupted, recognised by its attribute because importing it would load jax
    status = getattr(error, "exit_status", None)
    if status is not None:
        print_error(f"omfa {command}: {error}")
        return status
    if joins and is_job_leaving():
        # the reason has been printed: this error is a collective that the others have left
        return exit_job(UNEXPECTED, "", joins=joins)
    row = classify_error(error)
    line = str(error) or type(error).__name__
    if not isinstance(error, OmfaError | OSError):
        # messages of other libraries are long, and often mean little without the error's type
        line = f"{type(error).__name__}: {' '.join(line.split())[:MAX_MESSAGE_CHARS]}"
    if row.xla or row.status == UNEXPECTED:
        print_error("".join(traceback.format_exception(error)).rstrip())
    advice = f" ({row.description}: restarting may help)" if row.status == RESTART else ""
    advice = f" ({row.description})" if row is OPEN_FILES else advice
    if row.status != UNEXPECTED:
        print_error(f"omfa {command}: {line}{advice}")
    return exit_job(row.status, line, joins=joins)


def exit_job(status: int, line: str, *, joins: bool) -> int:
    """Return the exit status of this process, after ending the job's other processes."""
    try:
        sys.stdout.flush()
    except OSError:
        # stdout is on a full disk: the interpreter's own flush would fail, with exit status 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not joins:
        return status
    from omfa_jax.parallel import distributed

    return distributed.end_job(status, line)


def is_job_leaving() -> bool:
    """Return whether this process already exits because of another one of its job."""
    job_exit = sys.modules.get("omfa_jax.parallel.job_exit")
    return job_exit is not None and job_exit.is_leaving()


def print_error(text: str) -> None:
    """Print to stderr and ignore failures, which must not change the exit status."""
    with contextlib.suppress(OSError):
        print(format_prefix() + text, file=sys.stderr, flush=True)


def is_stdout_closed() -> bool:
    """Return whether stdout's reader has closed it, as `| head` does; then discard the rest."""
    output = sys.stdout.fileno()
    poller = select.poll()
    poller.register(output, 0)
    left = any(event & select.POLLERR for _, event in poller.poll(0))
    if left:
        # the interpreter flushes stdout again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return left


if __name__ == "__main__":
    sys.exit(main())
