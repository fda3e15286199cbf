"""Functions whose closed-over traced numbers are leaves, so that every cell has its own."""

from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

Build = Callable[[list[Any]], Any]


def depends(function: Callable[[Array], Any], argument: Array) -> list[bool]:
    """Which arrays in `function(argument)` follow from the argument, by the operations that make them."""
    arrays = lambda a: jax.tree.leaves(eqx.filter(function(a), eqx.is_array))
    traced = jax.make_jaxpr(arrays)(argument).jaxpr
    known = set(map(id, traced.invars))
    for equation in traced.eqns:
        if any(id(variable) in known for variable in equation.invars):
            known.update(map(id, equation.outvars))
    return [id(variable) in known for variable in traced.outvars]


class Closure(eqx.Module):
    """A function rebuilt from the numbers that it closes over."""

    numbers: list[Any]
    build: Build = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the function."""
        return self.build(self.numbers)(*args, **kwargs)


def hides_tracer(tree: Any) -> bool:
    """Whether a function among the leaves of `tree` reaches a traced number, which no leaf shows."""
    return any(isinstance(opened(leaf), Closure) for leaf in jax.tree.leaves(tree))


def opened(leaf: Any) -> Any:
    """A function as a `Closure`, if it reaches traced numbers by its closure or defaults; else `leaf`."""
    if isinstance(leaf, jax.core.Tracer) or not callable(leaf):
        return leaf
    numbers: list[Any] = []
    build = _builder(leaf, numbers, ())
    return leaf if build is None else Closure(numbers, build)


def _builder(value: Any, numbers: list[Any], above: tuple[Any, ...]) -> Build | None:
    """How `value` is made from `numbers`, to which what it reaches is added; `None` if it reaches nothing."""
    if isinstance(value, jax.core.Tracer):
        numbers.append(value)
        index = len(numbers) - 1
        return lambda given: given[index]
    if any(value is other for other in above):
        # A function may reach itself.
        return None
    above = (*above, value)
    if isinstance(value, FunctionType):
        return _function_builder(value, numbers, above)
    if isinstance(value, partial):
        parts = _builder((value.func, value.args, value.keywords), numbers, above)
        kind = type(value)
        if parts is None:
            return None

        def build(given):
            function, args, keywords = parts(given)
            return kind(function, *args, **keywords)

        return build
    if isinstance(value, _JITTED):
        # What is made of it runs inside compiled programs anyway.
        return _builder(value.__wrapped__, numbers, above)
    leaves, structure = jax.tree.flatten(value)
    if any(leaf is value for leaf in leaves):
        return None
    builders = [_builder(leaf, numbers, above) for leaf in leaves]
    if not any(builders):
        return None
    kept = [leaf if b is None else None for leaf, b in zip(leaves, builders, strict=True)]
    fill = lambda given: [k if b is None else b(given) for k, b in zip(kept, builders, strict=True)]
    return lambda given: jax.tree.unflatten(structure, fill(given))


_JITTED = type(jax.jit(lambda: None))


def _function_builder(function: FunctionType, numbers: list[Any], above: tuple[Any, ...]) -> Build | None:
    cells = function.__closure__ or ()
    full = [_is_full(cell) for cell in cells]
    contents = [cell.cell_contents for cell, is_full in zip(cells, full, strict=True) if is_full]
    parts = _builder((contents, function.__defaults__, function.__kwdefaults__), numbers, above)
    if parts is None:
        return None
    empty = tuple(CellType() for _ in cells)
    hollow = FunctionType(function.__code__, function.__globals__, function.__name__, None, empty)

    def build(given):
        contents, defaults, keywords = parts(given)
        rest = iter(contents)
        filled = tuple(CellType(next(rest)) if is_full else CellType() for is_full in full)
        made = FunctionType(hollow.__code__, hollow.__globals__, hollow.__name__, defaults, filled)
        made.__kwdefaults__ = keywords
        return made

    return build


def _is_full(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
