"""The type checker that runs under pytest: beartype, with int accepted where float is annotated."""

import contextlib
from collections.abc import Callable, Iterator

import beartype
import jaxtyping
from beartype.roar import BeartypeDecorHintPep3119Exception

CHECKED = ["omfa_jax.core", "omfa_jax.diffusion", "omfa_jax.models"]

# PEP 484's rule, which beartype leaves off by default
_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """Return the function with its annotations checked at every call."""
    try:
        return _beartype(function)
    except BeartypeDecorHintPep3119Exception as error:
        # a Protocol of Flax that isinstance cannot test: the constructors of Dense and Conv have it
        if "PromoteDtypeFn" in str(error):
            return function
        raise


def install() -> None:
    """Check the annotated shapes, dtypes and types of `CHECKED` at every call from now on.

    Modules imported before this call stay unchecked. Commands that tests run in processes of their
    own are not checked: they run what users run.
    """
    jaxtyping.install_import_hook(CHECKED, "runtime_types.check")


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Call functions as users do: a wrong type then meets the package's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
