"""Programs traced at every call and compiled once: what runs is what is asked for, always.

`jax.jit` knows a program by the identity of its function, and keeps running what a global or an attribute
was when the function was first traced. Here functions are traced again, which sees every number that they
read, and machine code is shared by all programs whose traces are equal. If no code of a user is involved, the
earlier program is still valid, and is used again without tracing.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from functools import cached_property, partial, wraps
from types import FunctionType
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from mfjax._numerics.arrays import is_traced
from mfjax._numerics.jaxprs import ClosedJaxpr, value_of

# Arrays that functions close over are arguments of their programs where they are larger (in bytes): as
# constants they would be printed, parsed and folded. Smaller ones help the compiler to simplify.
LARGE = 4096


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an argument of a program, and not a part of it."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def shapes_of(tree: Any) -> Any:
    """`tree` with shapes in place of its arrays, and the same promotion of types."""
    return jax.tree.map(lambda leaf: _shape(leaf) if is_array(leaf) else leaf, tree)


def _shape(array: Any) -> jax.ShapeDtypeStruct:
    sharding = None if isinstance(array, Tracer) else getattr(array, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        sharding = None
    weak = bool(getattr(array, "weak_type", False))
    return jax.ShapeDtypeStruct(np.shape(array), array.dtype, sharding=sharding, weak_type=weak)


class _Recent(OrderedDict):
    """A cache of the last `size` values that were asked for."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.lock = size, threading.RLock()

    def find(self, key: Any, make: Callable[[], Any]) -> Any:
        with self.lock:
            if key in self:
                self.move_to_end(key)
                return self[key]
        # Not under the lock: other threads trace too.
        made = make()
        with self.lock:
            made = self.setdefault(key, made)
            while len(self) > self.size:
                self.popitem(last=False)
            return made

    def clear(self) -> None:
        with self.lock:
            super().clear()


# Each holds machine code, some megabytes of it.
_by_trace, _by_structure = _Recent(96), _Recent(96)


def clear() -> None:
    """Forget all programs, as `jax.clear_caches` does those of JAX."""
    _by_trace.clear()
    _by_structure.clear()


class _Machine:
    """A function compiled for each shape of its arguments, and what the compiler says of its memory."""

    def __init__(self, function: Callable):
        self.jitted = jax.jit(function)
        self._memory: dict[Any, Any] = {}

    def memory(self, constants: list[Any], *leaves: Any) -> Any:
        """What the compiler says of the memory for arrays of these shapes."""
        like = (tuple(map(_shape, constants)), *map(_shape, leaves))
        if like not in self._memory:
            self._memory[like] = self.jitted.lower(list(like[0]), *like[1:]).compile().memory_analysis()
        return self._memory[like]


# From a function of (constants, *arrays) to another: from that of one cell to that of a batch, say.
Lift = Callable[[Callable], Callable]


class Form(eqx.Module):
    """What a program returns apart from its arrays: their `structure`, and the `rest`.

    `varying` says which of the arrays follow from the arguments of the program.
    """

    structure: Any = eqx.field(static=True)
    rest: Any
    varying: tuple[bool, ...] = eqx.field(static=True)

    def filled(self, leaves: list[Any]) -> Any:
        """The result with its arrays, in order."""
        return eqx.combine(jax.tree.unflatten(self.structure, leaves), self.rest)

    def __call__(self, varying: list[Any], same: list[Any]) -> Any:
        """The result with the arrays that follow from the arguments, and those that do not."""
        first, second = iter(varying), iter(same)
        return self.filled([next(first) if varies else next(second) for varies in self.varying])


class Program:
    """`function(*arguments)` of pytrees, for arrays of the shapes that it was made with.

    What is no array in the arguments, or in the result, is what it was when the program was made. A program
    that is `differentiable` shares no machine code: it may have other rules of differentiation.
    """

    def __init__(self, function: Callable, *arguments: Any, differentiable: bool = False):
        dynamic, static = eqx.partition(arguments, is_array)
        leaves, inputs = jax.tree.flatten(dynamic)
        made = []

        def flat(*leaves):
            result = function(*eqx.combine(jax.tree.unflatten(inputs, leaves), static))
            dynamic, rest = eqx.partition(result, eqx.is_array)
            out, structure = jax.tree.flatten(dynamic)
            made.append((structure, rest))
            return out

        traced_here = lambda leaf: isinstance(leaf, Tracer)
        like = [_shape(leaf) if traced_here(leaf) else leaf for leaf in leaves]
        closed: Any = jax.make_jaxpr(flat)(*like)
        structure, rest = made[-1]
        self.form = Form(structure, rest, tuple(reached(closed.jaxpr)))
        self._results = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in closed.out_avals
        ]
        # Numbers of an outer program that the function reaches are arguments too.
        chosen = [traced_here(c) or _nbytes(c) > LARGE for c in closed.consts]
        self.constants = [c for c, is_chosen in zip(closed.consts, chosen, strict=True) if is_chosen]
        self._like = list(map(_shape, like))
        self._flat, self._lift = _with_arguments(closed, chosen), None
        self._key = None
        if not differentiable and not any(map(traced_here, [*leaves, *self.constants])):
            held = [c for c, is_chosen in zip(closed.consts, chosen, strict=True) if not is_chosen]
            value = value_of(closed.jaxpr, held)
            self._key = None if value is None else (value, tuple(chosen), context())

    def lifted(self, lift: Lift) -> "Program":
        """The program that `lift` makes of this one, which is not traced again; equal ones are the same."""
        other = copy(self)
        other._lift = lift
        # Not the machine of this one, which it may have already.
        vars(other).pop("_machine", None)
        return other

    @cached_property
    def _machine(self) -> _Machine:
        make = lambda: _Machine(self._flat if self._lift is None else self._lift(self._flat))
        return make() if self._key is None else _by_trace.find((self._key, self._lift), make)

    @property
    def inside_a_trace(self) -> bool:
        """Whether the function reaches numbers of an outer program."""
        return any(isinstance(c, Tracer) for c in self.constants)

    @property
    def text(self) -> str:
        """The lowered program, in StableHLO, without arguments that are not used."""
        return self._machine.jitted.lower(self.constants, *self._like).as_text()

    @property
    def shapes(self) -> Any:
        """The result, with shapes in place of arrays."""
        return self.assembled(self._results)

    def shapes_for(self, *arguments: Any) -> Any:
        """The result for arguments of these shapes, with shapes in place of arrays."""
        return self.assembled(jax.eval_shape(self._machine.jitted, self.constants, *_arrays(arguments)))

    def memory(self, *arguments: Any) -> Any:
        """What the compiler says of the memory for arguments of these shapes; the program is compiled."""
        return self._machine.memory(self.constants, *_arrays(arguments))

    def __call__(self, *arguments: Any) -> Any:
        return self.assembled(self.arrays(*arguments))

    def arrays(self, *arguments: Any) -> list[Any]:
        """The arrays of the result, in order."""
        return self._machine.jitted(self.constants, *_arrays(arguments))

    def replayed(self, *leaves: Any) -> list[Any]:
        """The arrays of the result, by the operations of the trace."""
        return self._flat(self.constants, *leaves)

    def assembled(self, leaves: list[Any]) -> Any:
        """The result of which these are the arrays."""
        return self.form.filled(leaves)


def _arrays(tree: Any) -> list[Any]:
    return jax.tree.leaves(eqx.filter(tree, is_array))


def _nbytes(constant: Any) -> int:
    if not is_array(constant) or jnp.issubdtype(constant.dtype, jax.dtypes.extended):
        return 0
    return int(np.prod(np.shape(constant))) * np.dtype(constant.dtype).itemsize


def _with_arguments(closed: Any, chosen: list[bool]) -> Callable:
    """A traced function of its chosen constants and of its arguments."""
    kept = [None if is_chosen else c for c, is_chosen in zip(closed.consts, chosen, strict=True)]
    jaxpr = closed.jaxpr

    def function(constants, *values):
        given = iter(constants)
        constants = [next(given) if is_chosen else c for c, is_chosen in zip(kept, chosen, strict=True)]
        return jaxpr_as_fun(ClosedJaxpr(jaxpr, constants))(*values)

    return function


def program(function: Callable, *arguments: Any, differentiable: bool = False) -> Program:
    """The program of `function`, made before or now.

    `function` is one of the library, and reads nothing but its arguments and what those reach.
    """
    made = known_program(function, *arguments, differentiable=differentiable)
    return Program(function, *arguments, differentiable=differentiable) if made is None else made


def known_program(function: Callable, *arguments: Any, differentiable: bool = False) -> Program | None:
    """The program of `function`, one of the library, where nothing that others have written enters."""
    key = _key(function, arguments) if from_libraries(arguments) else None
    if key is None:
        return None
    make = lambda: Program(function, *shapes_of(arguments), differentiable=differentiable)
    return _by_structure.find((key, differentiable), make)


def compiled(function: Callable) -> Callable:
    """A function of the library that runs compiled; what its arguments reach is read at every call.

    Inside another program it is a part of that one.
    """

    @wraps(function)
    def call(*arguments):
        if is_traced(arguments):
            return function(*arguments)
        return program(function, *arguments)(*arguments)

    return call


# Settings of JAX that enter a trace.
CONTEXT = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_debug_nans",
)


def context() -> tuple[Any, ...]:
    """The settings of JAX that enter a trace, or its compilation, as they are here."""
    return (*(getattr(jax.config, name) for name in CONTEXT), jax.sharding.get_abstract_mesh())


def _key(function: Callable, arguments: Any) -> Any:
    """What decides a program, if that can be compared; `None` if it cannot."""
    leaves, structure = jax.tree.flatten(arguments)
    kinds = tuple(
        (s.shape, s.dtype, s.weak_type, s.sharding) if isinstance(s, jax.ShapeDtypeStruct) else _value(s)
        for s in map(shapes_of, leaves)
    )
    # Static fields that are equal need not be the same: 1, 1.0 and True.
    key = (function, structure, str(structure), kinds, context())
    try:
        hash(key)
    except (TypeError, ValueError):
        return None
    return key


def _value(leaf: Any) -> tuple[type, Any]:
    """What two leaves share that are the same: 0.0 is not -0.0."""
    return type(leaf), repr(leaf) if type(leaf) in (float, complex) else leaf


LIBRARIES = frozenset({"mfjax", "jax", "jaxlib", "equinox", "optax", "numpy", "functools", "builtins"})
PLAIN = (type(None), bool, int, float, complex, str, bytes)
# What `jax.jit` returns.
_Jitted = type(jax.jit(abs))


def from_libraries(value: Any, held: bool = False) -> bool:
    """Whether an object, all that it holds included, is made of libraries, whose functions never change.

    Functions and classes of others may read a global, or an attribute, that has changed since. What is `held`
    by a function, a partial or a static field is no argument of a program: it must be immutable, and an array
    there would stay with the program, or be a number of another trace.
    """
    kind = type(value)
    if kind in PLAIN or isinstance(value, (np.dtype, np.generic)):
        return True
    if is_array(value):
        return not held
    if isinstance(value, Form):
        # The structure holds no more than the objects of the rest.
        return from_libraries(value.rest, held)
    if isinstance(value, FunctionType):
        # Not by `__module__`, which a decorator copies from what it wraps.
        if not _is_library_name(value.__globals__.get("__name__")):
            return False
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        kept = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return all(from_libraries(each, True) for each in kept)
    if isinstance(value, type):
        return _is_library(value)
    if not _is_library(kind):
        return False
    if isinstance(value, dict):
        return not held and all(map(from_libraries, value.values()))
    if isinstance(value, (tuple, list)):
        return (isinstance(value, tuple) or not held) and all(from_libraries(each, held) for each in value)
    if isinstance(value, partial):
        return all(from_libraries(each, True) for each in (value.func, *value.args, *value.keywords.values()))
    if isinstance(value, _Jitted):
        return from_libraries(cast(Any, value).__wrapped__, True)
    if isinstance(value, eqx.Module) and is_dataclass(value):
        is_held = lambda field: held or field.metadata.get("static", False)
        return all(from_libraries(getattr(value, f.name, None), is_held(f)) for f in fields(value))
    # Others, such as functions with rules of differentiation, do not show all that they hold. A library has
    # its own under their names.
    name, module = getattr(value, "__name__", ""), getattr(value, "__module__", None)
    homes = [np, jnp, *([sys.modules.get(str(module))] if _is_library_name(module) else [])]
    return any(getattr(home, name, None) is value for home in homes)


def _is_library(value: Any) -> bool:
    return _is_library_name(getattr(value, "__module__", None))


def _is_library_name(name: str | None) -> bool:
    return (name or "").split(".")[0] in LIBRARIES


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def reached(jaxpr: Any) -> list[bool]:
    """Which outputs of a jaxpr follow from its inputs, by the operations that make them."""
    known = set(map(id, jaxpr.invars))
    for equation in jaxpr.eqns:
        if any(id(atom) in known for atom in equation.invars):
            known.update(map(id, equation.outvars))
    return [id(atom) in known for atom in jaxpr.outvars]
