"""Whose code something is: that of an installed package, known by its version, or one's own."""

import functools
import importlib.metadata
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

# The manifest of a run holds the versions of these.
RECORDED = ("builtins", "jax", "jaxlib", "numpy", "equinox", "mfjax")


def is_library_name(value: Any) -> bool:
    """Whether a library holds `value` under its own name."""
    module, name = getattr(value, "__module__", None), _qualified(value)
    if isinstance(value, types.ModuleType):
        return not is_own_module(value)
    if not (isinstance(module, str) and name and is_library(module)):
        return False
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value or isinstance(value, type)


def is_own(thing: Any) -> bool:
    """Whether a function or class is defined outside of all libraries."""
    if isinstance(thing, types.FunctionType):
        # A decorator of a library gives its function the name of the one inside.
        return not is_library(thing.__globals__.get("__name__") or "")
    return not is_library(thing.__module__)


def is_own_module(value: Any) -> bool:
    """Whether something is a module outside of all libraries."""
    return isinstance(value, types.ModuleType) and not is_library(value.__name__)


def is_library(module: str) -> bool:
    """Whether a module is part of Python or of an installed package, by where its file is."""
    package = module.split(".")[0]
    if package in RECORDED or package in sys.builtin_module_names:
        return True
    held = sys.modules.get(package)
    if held is None or package == "__main__":
        return False
    if getattr(getattr(held, "__spec__", None), "origin", None) in ("built-in", "frozen"):
        return True
    return any(map(_is_installed, [getattr(held, "__file__", None) or "", *getattr(held, "__path__", [])]))


@functools.cache
def _is_installed(place: str) -> bool:
    if not place:
        return False
    path = Path(place).resolve()
    paths = sysconfig.get_paths()
    standard = any(path.is_relative_to(Path(paths[n]).resolve()) for n in ("stdlib", "platstdlib"))
    return standard or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _version(module: str) -> str:
    """The version of a library that the manifest does not name."""
    package = module.split(".")[0]
    if package in RECORDED or package in sys.stdlib_module_names or not is_library(package):
        return ""
    try:
        return str(getattr(sys.modules[package], "__version__", None) or importlib.metadata.version(package))
    except (KeyError, importlib.metadata.PackageNotFoundError):
        return ""


def _qualified(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else ""


def title(value: Any) -> str:
    """The full name of a module, function or class, or of an object's class, and its library's version."""
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__} {_version(value.__name__)}"
    kind = value if callable(value) and _qualified(value) else type(value)
    module = getattr(kind, "__module__", None) or ""
    return f"{module}.{_qualified(kind)} {_version(module)}"
