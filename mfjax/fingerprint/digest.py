"""A digest of a configuration, by which a run directory recognises its own run."""

import copyreg
import dataclasses
import dis
import functools
import hashlib
import importlib
import re
import types
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from mfjax.fingerprint.origins import is_library, is_library_name, is_own, is_own_module, title


def fingerprint(tree: Any) -> str:
    """A digest of a configuration: arrays bit by bit, static settings, functions and classes by what they do.

    A function, or a method of one's own class, counts by its byte code, constants, defaults, closure, and
    all that it reads by name from its module, functions, classes, objects and modules of one's own included;
    not by its address or its place in a file: the same program started again has the same digest, another
    function or number has another. What an installed package defines counts by its name and version.

    **Raises** `ValueError` for what has no content that another process could compare: a lock, a generator.

    >>> fingerprint({"lam": 0.1}) == fingerprint({"lam": 0.1}) != fingerprint({"lam": 0.2})
    True
    """
    return _digest(tree, {}).hex()


def _digest(value: Any, seen: dict[Any, Any]) -> bytes:
    digest = hashlib.sha256()
    _feed(digest, value, seen)
    return digest.digest()


class _Reads(NamedTuple):
    """A module of one's own, of which a function reads attributes with some of these names."""

    module: types.ModuleType
    names: frozenset[str]


_IMMUTABLE = (tuple, frozenset, types.CodeType)


def _feed(digest: Any, value: Any, seen: dict[Any, tuple[int, Any]]) -> None:
    mark = lambda *words: digest.update("\0".join(map(str, ("", *words, ""))).encode())
    if isinstance(value, (jax.Array, np.ndarray)) and not _is_object(value):
        array = np.asarray(jax.random.key_data(value) if _is_key(value) else value)
        mark("array", array.shape, array.dtype)
        digest.update(np.ascontiguousarray(array).tobytes())
        return
    if value is None or type(value) in (bool, int, float, complex, str, bytes, range, type(Ellipsis)):
        mark(type(value).__name__, repr(value))
        return
    identity = (id(value.module), value.names) if isinstance(value, _Reads) else id(value)
    if identity in seen:
        # A function may reach itself.
        mark("seen", seen[identity][0])
        return
    # Equal constants may or may not be one object.
    if isinstance(value, _Reads) or not isinstance(value, _IMMUTABLE):
        # Kept alive: the id of a temporary could otherwise be given to another object.
        seen[identity] = (len(seen), value)
    if isinstance(value, (set, frozenset)):
        mark("set", *sorted(_digest(item, dict(seen)).hex() for item in value))
        return
    parts = _parts(value, seen)
    mark(title(value), len(parts))
    for name, part in parts:
        mark(name)
        _feed(digest, part, seen)


Parts = list[tuple[str, Any]]


def _parts(value: Any, seen: dict[Any, tuple[int, Any]]) -> Parts:
    """What a value consists of, named."""
    if is_library_name(value):
        return []
    if isinstance(value, type):
        return _class_parts(value)
    if isinstance(value, types.ModuleType):
        return _module_parts(value, frozenset(n for n in vars(value) if not n.startswith("__")))
    if isinstance(value, _Reads):
        return _module_parts(value.module, value.names)
    if isinstance(value, Mapping):
        key = lambda k: repr(k) if isinstance(k, (str, int, float)) else _digest(k, dict(seen)).hex()
        items = sorted(((key(k), v) for k, v in value.items()), key=lambda item: item[0])
        return items + (_class_parts(type(value)) if is_own(type(value)) else [])
    if isinstance(value, (tuple, list)):
        return [("", v) for v in value] + (_class_parts(type(value)) if is_own(type(value)) else [])
    if isinstance(value, types.CodeType):
        return [("code", value.co_code), ("names", value.co_names), ("constants", value.co_consts)]
    if isinstance(value, functools.partial):
        return [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("function", value.__func__), ("owner", value.__self__)]
    if isinstance(value, types.FunctionType):
        return _function_parts(value)
    if isinstance(value, (Jaxpr, ClosedJaxpr)):
        return _program_parts(value)
    if type(value) is _JITTED:
        return [("wrapped", value.__wrapped__)]
    return _object_parts(value)


_JITTED = type(jax.jit(lambda: None))


def _function_parts(function: types.FunctionType) -> Parts:
    if _checks_types(function):
        return [("wrapped", function.__wrapped__)]
    closure = [_contents(cell) for cell in function.__closure__ or ()]
    names = frozenset(_names(function.__code__))
    parts = [("closure", [_Reads(c, names) if is_own_module(c) else c for c in closure])]
    if not is_own(function):
        # The closure of a library's function (an optax transformation) holds what its maker was given.
        return parts if "<locals>" in function.__code__.co_qualname else []
    parts += [("code", function.__code__), ("defaults", (function.__defaults__, function.__kwdefaults__))]
    parts += [(n, v) for n, v in sorted(vars(function).items()) if not n.startswith("__")]
    for name, value in _read(function):
        parts.append((name, _Reads(value, names) if is_own_module(value) else value))
    return parts


def _checks_types(function: types.FunctionType) -> bool:
    """Whether jaxtyping or beartype made a function around another, with addresses in its text."""
    maker = function.__globals__.get("__name__") or ""
    made = maker.split(".")[0] == "jaxtyping" or function.__code__.co_filename.startswith("<@beartype(")
    return made and hasattr(function, "__wrapped__")


def _read(function: types.FunctionType) -> Parts:
    """What a function, and the functions inside it, read from their module or import."""
    found = {}
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            name = step.argval
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") or "_OR_GLOBALS" in step.opname:
                if name in function.__globals__ and not name.startswith("__"):
                    found[name] = function.__globals__[name]
            elif step.opname == "IMPORT_NAME" and not is_library(name):
                try:
                    # The function will do so in any case, and must not change its digest by it.
                    found[f"import {name}"] = importlib.import_module(name)
                except ImportError:
                    found[f"import {name}"] = None
    return sorted(found.items())


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [code, *(c for one in inner for c in _codes(one))]


def _names(code: types.CodeType) -> list[str]:
    """All names in a function: of globals, and of attributes."""
    return [name for one in _codes(code) for name in one.co_names]


def _module_parts(module: types.ModuleType, names: frozenset[str]) -> Parts:
    """The attributes of a module that have such names, and those of its modules."""
    if not is_own_module(module):
        return []
    held = [(n, vars(module)[n]) for n in sorted(names) if n in vars(module) and not n.startswith("__")]
    return [(n, _Reads(v, names) if is_own_module(v) else v) for n, v in held]


# What Python and its class builders add to every class.
_BOOKKEEPING = re.compile(r"__(?!init__|call__|getattr)|_abc_impl")


def _class_parts(kind: type) -> Parts:
    """What the author of a class has written."""
    parts = []
    for base in kind.__mro__:
        if not is_own(base):
            continue
        for name, value in sorted(vars(base).items()):
            inner = _inside(value) if hasattr(type(value), "__get__") else value
            own_function = isinstance(inner, types.FunctionType) and is_own(inner)
            if own_function or not (_BOOKKEEPING.match(name) or type(inner) in _DESCRIPTORS):
                parts.append((name, inner))
    return parts


def _inside(descriptor: Any) -> Any:
    """The function of a method, a property, or the descriptor in which equinox keeps a method."""
    for name in ("__func__", "method", "fget", "func"):
        if getattr(descriptor, name, None) is not None:
            return getattr(descriptor, name)
    return descriptor


_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.FunctionType)


def _program_parts(program: Any) -> Parts:
    """A traced program: its text, and the arrays in it and in the programs inside it."""
    constants = list(getattr(program, "consts", ()))
    # From JAX 0.12 on programs are one class, which holds its constants itself and is its own `jaxpr`.
    if isinstance(program, ClosedJaxpr) and program.jaxpr is not program:
        return [("program", program.jaxpr), ("constants", constants)]
    parts: Parts = [("text", _without_addresses(str(program))), ("constants", constants)]
    for equation in program.eqns:
        parts += [("", atom.val) for atom in equation.invars if isinstance(atom, Literal)]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                parts.append(("", inner))
    return parts


def _is_program(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def _object_parts(value: Any) -> Parts:
    """The state of an object, and the methods of its class if that is one's own."""
    kind = type(value)
    if dataclasses.is_dataclass(value):
        fields = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
        return fields + _class_parts(kind)
    if is_own(kind):
        slots = [n for base in kind.__mro__ for n in _slots(base)]
        state = {n: getattr(value, n) for n in slots if hasattr(value, n)} | getattr(value, "__dict__", {})
        # An element of an enumeration or a number of one's own class has a value besides.
        plain = [b for b in (bool, int, float, complex, str, bytes) if isinstance(value, b)]
        return [("plain", b(value)) for b in plain[:1]] + sorted(state.items()) + _class_parts(kind)
    if hasattr(value, "__wrapped__"):
        # A cache, a rule for derivatives: what it was made of.
        own = sorted(getattr(value, "__dict__", {}).items())
        return [("wrapped", value.__wrapped__)] + [(k, v) for k, v in own if not k.startswith("_")]
    if isinstance(value, types.BuiltinFunctionType):
        return [("owner", value.__self__)]
    if isinstance(value, weakref.ReferenceType):
        return [("referent", value())]
    try:
        reduce = copyreg.dispatch_table.get(kind)
        made = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception as error:
        text = repr(value)
        if _without_addresses(text) != text:
            raise ValueError(
                f"a run that is kept on disk is known by its configuration, and this reads {text}, a "
                f"{title(kind).strip()}, of which another process knows nothing: pass numbers or arrays "
                "instead, or leave out path="
            ) from error
        return [("text", text)]
    if isinstance(made, str):
        return [("global", made)]
    maker, arguments, state, items, pairs = (*made, None, None, None)[:5]
    return [("made", (maker, arguments)), ("state", state), ("items", [*(items or ()), *(pairs or ())])]


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [n for n in ([slots] if isinstance(slots, str) else slots) if not n.startswith("__")]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _is_object(array: Any) -> bool:
    return array.dtype == object
