"""A digest of a configuration, by which a run directory recognises its own run."""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The code of these packages is known by their versions, which the manifest holds.
LIBRARIES = ("builtins", "jax", "jaxlib", "jaxtyping", "numpy", "scipy", "equinox", "optax", "mfjax")


def fingerprint(tree: Any) -> str:
    """A digest of a configuration: arrays bit by bit, static settings, functions and classes by what they do.

    A function, or a method of one's own class, counts by its byte code, constants, defaults, closure, and
    the numbers, arrays and functions that it reads from its module, not by its address or its place in a
    file: the same program started again has the same digest, another function or number has another.

    >>> fingerprint({"lam": 0.1}) == fingerprint({"lam": 0.1}) != fingerprint({"lam": 0.2})
    True
    """
    digest = hashlib.sha256()
    _feed(digest, tree, {})
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    mark = lambda *words: digest.update("\0".join(map(str, ("", *words, ""))).encode())
    if isinstance(value, (jax.Array, np.ndarray)):
        array = np.asarray(jax.random.key_data(value) if _is_key(value) else value)
        mark("array", array.shape, array.dtype)
        digest.update(np.ascontiguousarray(array).tobytes())
        return
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, range)):
        mark(type(value).__name__, repr(value))
        return
    if id(value) in seen:
        # A function may reach itself.
        mark("seen", list(seen).index(id(value)))
        return
    # Kept alive: the id of a temporary could otherwise be given to another object.
    seen[id(value)] = value
    parts = _parts(value)
    mark(_name(value), len(parts))
    for name, part in parts:
        mark(name)
        _feed(digest, part, seen)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What a value consists of, named."""
    if isinstance(value, type):
        return []
    if dataclasses.is_dataclass(value):
        fields = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
        return fields + _methods(type(value))
    if isinstance(value, Mapping):
        return sorted(((repr(k), v) for k, v in value.items()), key=lambda item: item[0])
    if isinstance(value, (tuple, list)):
        return [("", v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [("", v) for v in sorted(map(repr, value))]
    if isinstance(value, types.CodeType):
        return [("code", value.co_code), ("names", value.co_names), ("constants", value.co_consts)]
    if isinstance(value, functools.partial):
        return [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("function", value.__func__), ("owner", value.__self__)]
    if callable(value):
        return _function_parts(value)
    return [("value", re.sub(r"0x[0-9a-f]+", "", repr(value)))]


def _function_parts(function: Callable) -> list[tuple[str, Any]]:
    package = _package(function)
    code = getattr(function, "__code__", None)
    wrapped = getattr(function, "__wrapped__", None)
    if code is None:
        if wrapped is not None and package not in LIBRARIES:
            return [("wrapped", wrapped)]
        own = sorted(getattr(function, "__dict__", {}).items())
        return [(k, v) for k, v in own if not k.startswith("_")] + _methods(type(function))
    parts = [("closure", [_contents(c) for c in function.__closure__ or ()])]
    if package in LIBRARIES:
        # The closure of a library's function (an optax transformation) holds what its maker was given.
        return parts
    read = {n: function.__globals__[n] for n in _names(code) if n in function.__globals__}
    parts += [("code", code), ("defaults", (function.__defaults__, function.__kwdefaults__))]
    return parts + [(n, v) for n, v in read.items() if _is_plain(v) or isinstance(v, types.FunctionType)]


def _package(thing: Any) -> str:
    return (getattr(thing, "__module__", None) or "").split(".")[0]


def _methods(kind: type) -> list[tuple[str, Any]]:
    """What the author of a class has written."""
    methods = []
    for base in kind.__mro__:
        if _package(base) in LIBRARIES:
            continue
        for name, value in sorted(vars(base).items()):
            # Equinox keeps a method in a descriptor of its own.
            function = getattr(value, "__func__", getattr(value, "method", getattr(value, "fget", value)))
            function = getattr(function, "__wrapped__", function)
            if isinstance(function, types.FunctionType) and _package(function) not in LIBRARIES:
                methods.append((name, function))
    return methods


def _names(code: types.CodeType) -> list[str]:
    """The names that a function and the functions inside it read from their module."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return list(code.co_names) + [n for c in inner for n in _names(c)]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_plain(value: Any) -> bool:
    plain = (bool, int, float, complex, str, bytes, np.generic, np.ndarray, jax.Array)
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, plain) or (callable(value) and getattr(value, "__closure__", None) is not None)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _name(value: Any) -> str:
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    return f"{getattr(kind, '__module__', '')}.{kind.__qualname__}"
