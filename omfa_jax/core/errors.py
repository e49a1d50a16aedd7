"""The exception type that users see, and hints for misspelt names."""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence


class OmfaError(Exception):
    """An error that the user can fix; the command line prints its text without a traceback.

    The text is one line: what was expected, what was found, and which flag or file to change.
    """


def make_unknown_name_error(kind: str, name: str, known: Iterable[str]) -> OmfaError:
    """Return the error for a name that is not in `known`, with a hint at the nearest names."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return OmfaError(f"unknown {kind} {str(name)!r}{hint} (known: {', '.join(names) or 'none'})")


def raise_all(errors: Sequence[OmfaError]) -> None:
    """Raise the errors as one, with a line for each; do nothing if there are none."""
    if errors:
        raise errors[0] if len(errors) == 1 else OmfaError("\n".join(map(str, errors)))


def describe_damage(error: Exception) -> str:
    """Return what is wrong with a file's content: "no NAME" for a KeyError, else the error's text.

    An error without a text is said by its type.
    """
    if isinstance(error, KeyError) and error.args:
        return f"no {error.args[0]}"
    return " ".join(str(error).split()) or type(error).__name__


def require_modules(what: str, extra: str, *modules: str) -> None:
    """Raise an OmfaError with the install command if one of `modules` is not installed.

    `what` names the feature that needs them; `extra` is the extra of this package that has them.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise OmfaError(
                f"{what} needs {module}, which is not installed: {format_install_hint(extra)}"
            )


def format_install_hint(extra: str) -> str:
    """Return the command that installs an extra of this package (see pyproject.toml).

    The package is on no index, so the command works in its checkout.
    """
    return f"pip install -e '.[{extra}]' in the checkout of omfa_jax"
