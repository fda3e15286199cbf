"""A function of a cell, traced once for all cells that share structure."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from mfjax._engine.run import RECORDED
from mfjax._engine.simulation import Simulation
from mfjax._numerics.closures import opened


class Traced:
    """`fn` at one bucket, traced once; outputs that no cell parameter reaches are shared by all cells."""

    def __init__(self, jaxpr: Any, rebuild: Callable, outline: Any):
        self.jaxpr, self.rebuild, self.varying = jaxpr, rebuild, _reached(jaxpr.jaxpr)
        # What decides the program of a result, besides the shapes of its arrays.
        self.outline = (outline, self.varying)

    def __call__(self, *values: Any) -> list[Any]:
        """The array outputs of one cell."""
        return jaxpr_as_fun(self.jaxpr)(*values)

    def shapes(self) -> list[Any]:
        """Shapes and dtypes of the array outputs of one cell."""
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.jaxpr.out_avals]

    def arrays(self, values: Sequence[Any]) -> list[Any]:
        """The array outputs of one cell, or of many: those that vary then have the cells as leading axis."""
        many = bool(values) and np.ndim(values[0]) == 1
        own = iter((self._of_many if many else self._of_one)(*values))
        shared = iter(self._shared)
        return [next(own) if varies else next(shared) for varies in self.varying]

    def _part(self, varying: bool, *values: Any) -> list[Any]:
        return [a for a, v in zip(self(*values), self.varying, strict=True) if v == varying]

    @cached_property
    def _shared(self) -> list[Any]:
        # Any value will do.
        return jax.jit(partial(self._part, False))(*(np.ones(a.shape, a.dtype) for a in self.jaxpr.in_avals))

    @cached_property
    def _of_one(self) -> Callable:
        return jax.jit(partial(self._part, True))

    @cached_property
    def _of_many(self) -> Callable:
        return jax.jit(jax.vmap(partial(self._part, True)))


def trace(fn: Callable, constant: dict[str, Any], columns: dict[str, Any]) -> Traced:
    """`fn` of the structural values `constant` and of traced numbers, whose values are `columns`.

    **Raises** `ValueError` naming the axes whose numbers decide structure.
    """
    names = sorted(columns)
    static_part = []

    def arrays(*values):
        result = fn(**constant, **dict(zip(names, values, strict=True)))
        if isinstance(result, Simulation):
            # The histories of all measures would fill the memory, and a table holds the last only.
            result = copy.copy(result)
            object.__setattr__(result, "save_measures", False)
        dynamic, static = eqx.partition(jax.tree.map(opened, result), eqx.is_array_like)
        leaves, structure = jax.tree.flatten(dynamic)
        static_part.append((structure, static))
        return [jnp.asarray(leaf) for leaf in leaves]

    # Weakly typed, as the Python number would be that a cell on its own passes: it promotes nothing.
    like = [jax.ShapeDtypeStruct((), jnp.asarray(columns[n][:1]).dtype, weak_type=True) for n in names]
    try:
        jaxpr = jax.make_jaxpr(arrays)(*like)
    except _CONFUSED as error:
        _explain(error, arrays, names, like, columns)
        raise
    structure, static = static_part[-1]

    def rebuild(leaves):
        return eqx.combine(jax.tree.unflatten(structure, leaves), static)

    leaves, kind = jax.tree.flatten(static)
    return Traced(jaxpr, rebuild, (structure, tuple(leaves), kind))


# What constructors and JAX raise where they are given a traced number and need its value.
_CONFUSED = (ValueError, TypeError, jax.errors.JAXTypeError)


def _explain(error: Exception, arrays: Callable, names: list[str], like: list, columns) -> None:
    """**Raises** `ValueError` naming the axes to be made static, if `fn` cannot do with traced numbers."""

    def helps(name: str) -> bool:
        known = columns[name][0].item()
        index = names.index(name)
        mixed = lambda *values: arrays(*values[:index], known, *values[index + 1 :])
        try:
            jax.eval_shape(mixed, *like)
        except _CONFUSED:
            return False
        return True

    guilty = [n for n in names if helps(n)]
    if not guilty and "Tracer" not in str(error):
        return
    guilty = guilty or names
    also = "".join(f", and rename the axis, since runs record {n}" for n in guilty if n in RECORDED)
    raise ValueError(
        f"{str(error).splitlines()[0]}: the numbers of an axis are traced; name those that decide structure, "
        f"static={guilty}{also}"
    ) from error


def check_ends(fn: Callable, constant: dict[str, Any], columns: dict[str, Any]) -> None:
    """**Raises** what `fn` says to the smallest and to the largest numbers, with nothing computed."""
    for end in (np.min, np.max):
        cell = constant | {n: end(values).item() for n, values in columns.items()}

        def construct(cell=cell):
            fn(**cell)

        try:
            jax.eval_shape(construct)
        except ValueError as error:
            where = ", ".join(f"{name} = {value}" for name, value in cell.items())
            raise ValueError(f"{error} (in the cell {where})") from error
        except jax.errors.JAXTypeError:
            # Numbers and traced arrays together may ask for more than either alone.
            return


def _reached(jaxpr: Any) -> tuple[bool, ...]:
    """Which outputs of a jaxpr depend on its inputs."""
    touched = set(jaxpr.invars)
    is_touched = lambda atom: not isinstance(atom, Literal) and atom in touched
    for equation in jaxpr.eqns:
        if any(map(is_touched, equation.invars)):
            touched.update(equation.outvars)
    return tuple(map(is_touched, jaxpr.outvars))
