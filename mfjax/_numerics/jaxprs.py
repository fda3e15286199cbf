"""Traced programs as values that compare: two of equal value compute the same numbers."""

from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import Jaxpr, Literal

# From JAX 0.12 on another name of `Jaxpr`.
ClosedJaxpr: Any = vars(core)["ClosedJaxpr"]

# What says how a function is differentiated or batched, and nothing of its value.
RULES = {
    "custom_jvp_call": {"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "num_consts", "symbolic_zeros"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees", "num_consts", "symbolic_zeros"},
    "custom_vmap_call": {"in_tree", "out_tree"},
}


class Incomparable(Exception):
    """A part of a program that shows nothing of what it does."""


def value_of(jaxpr: Any, constants: Any) -> Hashable | None:
    """A value that two programs share only if they compute the same, rules of derivatives apart.

    `constants` are those of the program that are no arguments of it. `None` if it cannot be compared.
    """
    try:
        value = (_program(jaxpr), tuple(map(_constant, constants)))
        hash(value)
    except (Incomparable, TypeError):
        # Among these a tracer, which has no value.
        return None
    return value


def _program(jaxpr: Any) -> Hashable:
    numbers: dict[Any, int] = {}

    def new(variables: Any) -> Hashable:
        for variable in variables:
            numbers[variable] = len(numbers)
        return tuple(variable.aval for variable in variables)

    def known(atom: Any) -> Hashable:
        return (atom.aval, _constant(atom.val)) if isinstance(atom, Literal) else numbers[atom]

    first = (new(jaxpr.constvars), new(jaxpr.invars))
    lines = tuple(
        (e.primitive, tuple(map(known, e.invars)), _parameters(e), e.ctx, new(e.outvars)) for e in jaxpr.eqns
    )
    return first, lines, tuple(map(known, jaxpr.outvars))


def _parameters(equation: Any) -> Hashable:
    if equation.primitive.name == "call_hi_primitive":
        return _expanded(equation.params["_prim"])
    left_out = RULES.get(equation.primitive.name, ())
    return tuple((k, _part(v)) for k, v in sorted(equation.params.items()) if k not in left_out)


def _expanded(primitive: Any) -> Hashable:
    """The value of what JAX, from 0.12 on, keeps as one operation until it is lowered, such as a root."""
    if not type(primitive).__module__.startswith("jax."):
        # Batched and lowered in ways of its own.
        raise Incomparable
    like = lambda aval: jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
    try:
        closed: Any = jax.make_jaxpr(primitive.expand)(*jax.tree.map(like, primitive.in_avals))
    except (TypeError, AttributeError) as error:
        raise Incomparable from error
    return type(primitive), _program(closed.jaxpr), tuple(map(_constant, closed.consts))


def _part(value: Any) -> Hashable:
    if type(value).__name__ == "ClosedRule":
        # How a function is batched, wrapped anew at every call. Rules of the library compute what it does.
        return None if str(value.rule.__module__).startswith("mfjax.") else value.rule
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        return _program(getattr(value, "jaxpr", value)), tuple(map(_constant, getattr(value, "consts", ())))
    if isinstance(value, (jax.Array, np.ndarray, np.generic, float, complex)):
        return _constant(value)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_part, value))
    if isinstance(value, dict):
        return tuple((k, _part(v)) for k, v in sorted(value.items()))
    if is_dataclass(value) and not isinstance(value, type) and type(value).__hash__ is None:
        return type(value), tuple((f.name, _part(getattr(value, f.name))) for f in fields(value))
    if value is None or isinstance(value, (bool, int, str, bytes, type, Enum, np.dtype)):
        return type(value), value
    if isinstance(value, Hashable):
        # Compared as it says itself; where it says nothing, it is like itself alone.
        return value
    raise Incomparable


def _constant(value: Any) -> Hashable:
    """Bit for bit, and where it lies: numbers that compare as equal may have other signs."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
        # A reference to what may change, or unknown.
        raise Incomparable
    kind, weak = str(getattr(value, "dtype", type(value))), bool(getattr(value, "weak_type", False))
    place = None
    if isinstance(value, jax.Array):
        if not value.is_fully_addressable:
            raise Incomparable
        place = value.sharding
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise Incomparable
    content = array.tobytes()
    return kind, weak, array.shape, place, sha256(content).digest() if len(content) > 64 else content
