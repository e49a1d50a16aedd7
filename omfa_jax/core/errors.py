"""The one exception a user is meant to see, and hints for misspelt names."""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence


class OmfaError(Exception):
    """A fault the user can mend; its text is one line and the command line prints it bare.

    The text says what was expected, what came, and which flag or file to change.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> OmfaError:
    """Return the error for a name that is not in `known`, with the nearest names as a hint."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return OmfaError(f"unknown {kind} {str(name)!r}{hint} (known: {', '.join(names) or 'none'})")


def raise_all(errors: Sequence[OmfaError]) -> None:
    """Raise what was found: nothing, the one error, or one error with a line for each."""
    if errors:
        raise errors[0] if len(errors) == 1 else OmfaError("\n".join(map(str, errors)))


def require_modules(what: str, extra: str, *modules: str) -> None:
    """Raise an OmfaError that says how to install the first of `modules` that is not installed.

    `what` needs them; `extra` is the extra of this package that brings them.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise OmfaError(
                f"{what} needs {module}, which is not installed: pip install 'omfa_jax[{extra}]'"
            )
