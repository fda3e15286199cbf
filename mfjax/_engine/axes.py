"""The axes of a sweep: checked values, and which of them decide structure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfjax._engine.simulation import Simulation
from mfjax._numerics.arrays import native
from mfjax._numerics.compiled import is_array
from mfjax._results.run import RECORDED
from mfjax._results.table import array_row, is_numeric


def checked_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, tuple]:
    """The axes of a sweep as tuples of plain numbers and other values.

    **Raises** `ValueError` for axes that are empty, no sequences, repeat a value or hold NaN.
    """
    if not axes:
        raise ValueError("sweep needs at least one axis, for example lam=[1e-3, 1e-2]")
    checked = {}
    for name, values in axes.items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise ValueError(f"the axis {name} must be a sequence of values, got {values!r}")
        values = native(values, f"the axis {name}")
        checked[name] = tuple(v.item() if hasattr(v, "item") and np.ndim(v) == 0 else v for v in values)
        if not checked[name]:
            raise ValueError(f"the axis {name} is empty")
        # Other objects are compared by identity: their equality may be anything.
        same = [v if isinstance(v, (bool, int, float, str)) else id(v) for v in checked[name]]
        if len(set(same)) != len(same):
            raise ValueError(f"the axis {name} repeats a value: {checked[name]}")
        # Infinity is a legitimate parameter, the limit of a concentration or a temperature.
        if any(isinstance(v, float) and np.isnan(v) for v in checked[name]):
            raise ValueError(f"the axis {name} must be finite or infinite numbers, got {checked[name]}")
        if len({isinstance(v, str) for v in checked[name]}) > 1:
            raise ValueError(f"the axis {name} mixes texts with other values: {checked[name]}")
    return checked


def check_representable(name: str, values: tuple) -> None:
    """**Raises** `ValueError` for numbers of an axis that JAX, as it is configured, cannot tell or hold."""
    whole = all(isinstance(v, int) for v in values)
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.int64 if whole else np.float64))
    remedy = f'{dtype} here: enable jax_enable_x64, or pass static=["{name}"]'
    beyond = [v for v in values if not _holds(dtype, v)]
    if beyond:
        raise ValueError(f"the axis {name} has a value {beyond[0]} beyond {remedy}")
    if len({dtype.type(v) for v in values}) < len(values):
        raise ValueError(f"the axis {name} has values that are one number in {remedy}")


def _holds(dtype: np.dtype, value: Any) -> bool:
    """Whether `value` stays finite, other than zero and, if it is a whole number, itself in `dtype`."""
    try:
        with np.errstate(over="ignore"):
            held = dtype.type(value).item()
        if isinstance(value, int):
            return int(held) == value
    except OverflowError:
        return False
    return bool(np.isfinite(held) == np.isfinite(value) and (held == 0) == (value == 0))


def check_names(axes: Mapping[str, tuple], result: Any) -> None:
    """**Raises** `ValueError` if an axis has the name of a result: looked up before cells are computed.

    `result` is that of one cell: a `Simulation`, or a pytree of arrays or shapes.
    """
    if isinstance(result, Simulation):
        used = {*RECORDED, *result.observables, "times", "save", "particle", "cell", "coordinate"}
        taken = [name for name in axes if name in used or name.startswith("final_")]
    else:
        taken = [name for name in axes if name in array_row(result)]
    if taken:
        raise ValueError(f"{taken[0]!r} names both an axis and a result: rename the axis")


# What constructors and JAX raise where they are given a traced number and need its value.
CONFUSED = (ValueError, TypeError, IndexError, jax.errors.JAXTypeError)


def traced_axes(fn: Callable[..., Any], axes: Mapping[str, tuple], static: Sequence[str]) -> list[str]:
    """The axes whose numbers `fn` takes as traced scalars; the others decide structure.

    Those are axes of other values, axes that `static` names, and axes of whole numbers, such as a width or a
    number of steps, with which `fn` can do as Python numbers only: tracing it shows which.

    **Raises** `ValueError` naming an axis of other numbers that would have to be static, and what `fn`
    says to its first cell.
    """
    numeric = [n for n, v in axes.items() if n not in static and is_numeric(v)]
    for name in numeric:
        check_representable(name, axes[name])
    constant = {name: values[0] for name, values in axes.items()}

    def fault(traced: Sequence[str]) -> Exception | None:
        """What `fn` says if these numbers are traced."""
        like = [_weak(axes[name]) for name in traced]
        cell = lambda *values: fn(**(constant | dict(zip(traced, values, strict=True))))
        try:
            jax.eval_shape(lambda *values: jax.tree.leaves(eqx.filter(cell(*values), is_array)), *like)
        except CONFUSED as error:
            return error
        return None

    error = fault(numeric)
    if error is None:
        return numeric
    whole = [n for n in numeric if all(isinstance(v, int) for v in axes[n])]
    kept = [n for n in numeric if n not in whole]
    if fault(kept) is not None:
        # Not the whole numbers alone: those that help are to be named, unless the cell itself is wrong.
        helps = [n for n in kept if fault([m for m in kept if m != n]) is None]
        genuine = fault([])
        if genuine is not None:
            raise genuine
        raise ValueError(
            f"{str(error).splitlines()[0]}: the numbers of an axis are traced; name those that decide "
            f"structure, static={helps or kept}{_also(helps)}"
        ) from error
    for name in whole:
        if fault([n for n in numeric if n in kept or n == name]) is None:
            kept.append(name)
    return [n for n in numeric if n in kept]


def _also(names: Sequence[str]) -> str:
    return "".join(f", and rename the axis, since runs record {n}" for n in names if n in RECORDED)


def _weak(values: tuple) -> jax.ShapeDtypeStruct:
    """The number, weakly typed as the Python number of a single cell would be: it promotes nothing."""
    number = 0.0 if any(isinstance(v, float) for v in values) else 0
    return jax.ShapeDtypeStruct((), jnp.asarray(number).dtype, weak_type=True)


def check_ends(fn: Callable[..., Any], constant: dict[str, Any], columns: dict[str, Any]) -> None:
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
