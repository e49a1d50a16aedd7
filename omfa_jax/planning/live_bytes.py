"""Peak memory of a program that runs forward: which arrays of its jaxpr live at the same time."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

# calls that are part of the program around them
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# what XLA's kernels read from memory and write to it; everything else is fused into them or free
STORED = {
    "conv_general_dilated",
    "dot_general",
    "concatenate",
    "scan",
    "while",
    "cond",
    "gather",
    "sort",
    "pure_callback",
}
# computed again by each reader rather than stored for several
CHEAP = {"convert_element_type", "broadcast_in_dim"}
# other names of an array that is there
ALIASES = {"reshape", "squeeze", "expand_dims", "optimization_barrier", "copy_p", "stop_gradient"}
# read what they reduce, and need not have it stored
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "argmax"}


def compute_live_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the most bytes that `function`'s results and temporaries take, arguments excluded.

    Arguments are arrays or shapes. Operations run in the program's order, and an array is freed
    after its last use. XLA fuses: the result of an elementwise operation is stored only if a matrix
    product, a convolution or the like reads it, or if more than one operation does. A scan's body
    is at its peak once, whatever its length.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    return _measure(_inline(closed.jaxpr))


def _inline(jaxpr: Jaxpr) -> list[tuple[JaxprEqn, list[Any], list[Any]]]:
    """Return (equation, inputs, outputs) in order, calls replaced by what they call."""
    found: list[tuple[JaxprEqn, list[Any], list[Any]]] = []

    def walk(inner: Jaxpr, names: dict[Var, Any]) -> list[Any]:
        def get(atom: Any) -> Any:
            return atom if isinstance(atom, Literal) else names.get(atom, atom)

        for eqn in inner.eqns:
            inputs = [get(atom) for atom in eqn.invars]
            called = _get_called(eqn)
            if called is not None:
                # a fresh name for each call: one jaxpr may be called many times
                scope: dict[Var, Any] = dict(zip(called.invars, inputs, strict=True))
                outputs = walk(called, scope)
            elif eqn.primitive.name in ALIASES:
                outputs = inputs[: len(eqn.outvars)]
            else:
                outputs = [_Array(var.aval) for var in eqn.outvars]
                found.append((eqn, inputs, outputs))
            names.update(zip(eqn.outvars, outputs, strict=True))
        return [get(atom) for atom in inner.outvars]

    walk(jaxpr, {})
    return found


class _Array:
    """One array of the inlined program."""

    def __init__(self, aval: Any):
        self.nbytes = math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8)


def _get_called(eqn: JaxprEqn) -> Jaxpr | None:
    if eqn.primitive.name in STORED:
        return None
    for name in CALLS:
        called = eqn.params.get(name)
        if isinstance(called, ClosedJaxpr):
            return called.jaxpr
        if isinstance(called, Jaxpr):
            return called
    return None


def _measure(program: list[tuple[JaxprEqn, list[Any], list[Any]]]) -> int:
    uses: dict[_Array, list[int]] = {}
    made: dict[_Array, int] = {}
    for index, (_, inputs, outputs) in enumerate(program):
        for array in inputs:
            if isinstance(array, _Array):
                uses.setdefault(array, []).append(index)
        made.update(dict.fromkeys(outputs, index))
    names = [eqn.primitive.name for eqn, _, _ in program]

    def is_stored(array: _Array) -> bool:
        maker, readers = names[made[array]], [names[index] for index in uses.get(array, [])]
        # nobody reads it: a result
        if maker in STORED or not readers or any(name in STORED for name in readers):
            return True
        # a reduction reads once, and what it is fused with reads again
        return maker not in CHEAP and sum(name not in REDUCTIONS for name in readers) > 1

    # a fused operation reads its inputs where its own reader runs: they live until then
    last: dict[_Array, int] = {}
    for index in range(len(program) - 1, -1, -1):
        _, inputs, outputs = program[index]
        ends = [index]
        for array in outputs:
            if not is_stored(array):
                ends.append(last.get(array, index))
        for array in inputs:
            if isinstance(array, _Array):
                last[array] = max(last.get(array, 0), *ends)
    live = peak = 0
    ending: dict[int, list[int]] = {}
    for index, (eqn, _, outputs) in enumerate(program):
        stored = [array.nbytes for array in outputs if is_stored(array)]
        ends = ending.pop(index, [])
        if eqn.primitive.name not in STORED:
            # an elementwise operation writes over an input of its size that nobody reads again
            for nbytes in stored:
                if nbytes in ends:
                    ends.remove(nbytes)
                    live -= nbytes
        live += sum(stored)
        peak = max(peak, live + _measure_bodies(eqn))
        for array in outputs:
            if is_stored(array):
                ending.setdefault(last.get(array, len(program)), []).append(array.nbytes)
        # what nobody reads ends at once, unless it is a result
        live -= sum(ends) + sum(ending.pop(index, []))
    return peak


def _measure_bodies(eqn: JaxprEqn) -> int:
    if eqn.primitive.name not in STORED:
        return 0
    found = jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
    )
    bodies = [x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in found]
    return max((_measure(_inline(x)) for x in bodies if isinstance(x, Jaxpr)), default=0)
