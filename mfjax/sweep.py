"""The only loop over cells: a function of named parameters over a product of axes, as one labelled table."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun
from jaxtyping import Array

from mfjax._arrays import count
from mfjax.driver import SOLO, Program, drive, progress_bar
from mfjax.io import (
    RunDirectory,
    SweepDirectory,
    environment,
    fingerprint,
    read_arrays,
    write_arrays,
)
from mfjax.run import Run, assemble
from mfjax.simulate import advance, begin
from mfjax.simulation import Simulation
from mfjax.table import Table as Table
from mfjax.table import is_numeric, report, tabulate

METHODS = ("auto", "loop", "vmap")


def sweep(
    fn: Callable[..., Any],
    *,
    method: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = False,
    static: Sequence[str] = (),
    **axes: Sequence[Any],
) -> Table:
    """Evaluate `fn(**cell)` for every cell of the product of the named `axes`.

    `fn` returns a pytree of arrays, or an unevaluated `mf.Simulation`, which the sweep then runs with the
    machinery of `mf.simulate`. Numbers of an axis are passed as traced scalars, so that all cells share
    one trace and one program; `width`, axes of other values (strings, objects) and those named in `static`
    are structural: `fn` is traced once for each of their values, which it gets as Python values.

    - `method`: "loop" runs cells one after the other through one compiled program, several at a time in
      threads; "vmap" runs them as one array axis, in groups of `batch_size`; "auto" loops on CPU, where
      batches of small dense solves are slower than a loop, and batches on accelerators.
    - `workers`: threads of a loop on CPU, by default one per core, at most 4.
    - `path`, `resume`: stream every cell's run to a directory and continue a killed sweep, in mid-cell. The
      layout (method and batch size) is that of the directory, since it changes rounding.
    - `throw`: whether a failed cell raises at the end; otherwise it warns, the cell's results are NaN from
      its failure on, and the other cells are untouched.

    **Raises** `ValueError` for empty axes, unknown methods, and results whose shapes differ between cells.
    Range checks (lam < 0) see structural values only: a traced number out of range shows in the status.

    >>> import mfjax as mf
    >>> table = mf.sweep(lambda lam, seed: lam + seed, lam=[0.5, 1.0], seed=range(3))
    >>> table["value"].tolist()
    [[0.5, 1.5, 2.5], [1.0, 2.0, 3.0]]
    """
    axes = _checked_axes(axes)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    unknown = set(static) - set(axes)
    if unknown:
        raise ValueError(f"static names no axis: {', '.join(sorted(unknown))}")
    if batch_size is not None:
        batch_size = count(batch_size, "batch_size")
    if workers is not None:
        workers = count(workers, "workers")
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the sweep to continue")
    layout = {
        "method": ("loop" if jax.default_backend() == "cpu" else "vmap") if method == "auto" else method,
        "batch_size": batch_size,
    }
    if path is not None:
        plain = lambda v: v if isinstance(v, (bool, int, float, str)) else fingerprint(v)
        labels = {n: [plain(v) for v in values] for n, values in axes.items()}
        manifest = {"axes": labels, "static": sorted(static), "environment": environment()}
        free = method == "auto" and batch_size is None
        layout = SweepDirectory(path).open(manifest, resume, layout, free)
    traced = [n for n, v in axes.items() if n not in static and n != "width" and is_numeric(v)]
    fixed = [n for n in axes if n not in traced]
    options = layout | {"workers": workers, "resume": resume, "progress": progress}
    cells: dict[tuple, Any] = {}
    for bucket in product(*(range(len(axes[n])) for n in fixed)):
        constant = {n: axes[n][i] for n, i in zip(fixed, bucket, strict=True)}
        place = None
        if path is not None:
            place = Path(path) / ("-".join(f"{n}-{i}" for n, i in zip(fixed, bucket, strict=True)) or "all")
        indices = list(product(*(range(len(axes[n])) for n in traced)))
        columns = {n: jnp.asarray([axes[n][k[j]] for k in indices]) for j, n in enumerate(traced)}
        results = _bucket(_trace(fn, constant, columns), columns, len(indices), place, **options)
        for index, result in zip(indices, results, strict=True):
            where = dict(zip(fixed, bucket, strict=True)) | dict(zip(traced, index, strict=True))
            cells[tuple(where[n] for n in axes)] = result
    table = tabulate(axes, cells)
    if path is not None:
        table.save(Path(path) / "results.nc")
    report(table, throw)
    return table


def _checked_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, tuple]:
    if not axes:
        raise ValueError("sweep needs at least one axis, for example lam=[1e-3, 1e-2]")
    checked = {}
    for name, values in axes.items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise ValueError(f"the axis {name} must be a sequence of values, got {values!r}")
        checked[name] = tuple(v.item() if hasattr(v, "item") and np.ndim(v) == 0 else v for v in values)
        if not checked[name]:
            raise ValueError(f"the axis {name} is empty")
        # Other objects are compared by identity: their equality may be anything.
        same = [v if isinstance(v, (bool, int, float, str)) else id(v) for v in checked[name]]
        if len(set(same)) != len(same):
            raise ValueError(f"the axis {name} repeats a value: {checked[name]}")
        if is_numeric(checked[name]) and not np.all(np.isfinite(checked[name])):
            raise ValueError(f"the axis {name} must be finite, got {checked[name]}")
    return checked


class _Traced(eqx.Module):
    """`fn` at one bucket, traced once; outputs that no cell parameter reaches are shared by all cells."""

    jaxpr: Any = eqx.field(static=True)
    rebuild: Callable = eqx.field(static=True)
    varying: tuple[bool, ...] = eqx.field(static=True)

    def __call__(self, *values: Array) -> list[Array]:
        """The array outputs of one cell."""
        return jaxpr_as_fun(self.jaxpr)(*values)

    def shapes(self) -> list[Any]:
        """Shapes and dtypes of the array outputs of one cell."""
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.jaxpr.out_avals]

    def arrays(self, columns: dict[str, Array]) -> list[Array]:
        """The array outputs of many cells; those that vary have the cells as leading axis."""
        if not columns:
            return jax.jit(self.__call__)()
        out_axes = [0 if v else None for v in self.varying]
        return jax.jit(jax.vmap(self.__call__, out_axes=out_axes))(*(columns[n] for n in sorted(columns)))


def _trace(fn: Callable, constant: dict[str, Any], columns: dict[str, Array]) -> _Traced:
    names = sorted(columns)
    static_part = []

    def arrays(*values):
        result = fn(**constant, **dict(zip(names, values, strict=True)))
        dynamic, static = eqx.partition(result, eqx.is_array_like)
        leaves, structure = jax.tree.flatten(dynamic)
        static_part.append((structure, static))
        return [jnp.asarray(leaf) for leaf in leaves]

    # Weakly typed, as the Python number would be that a cell on its own passes: it promotes nothing.
    like = [jax.ShapeDtypeStruct((), columns[n].dtype, weak_type=True) for n in names]
    jaxpr = jax.make_jaxpr(arrays)(*like)
    structure, static = static_part[-1]

    def rebuild(leaves):
        return eqx.combine(jax.tree.unflatten(structure, leaves), static)

    return _Traced(jaxpr, rebuild, _reached(jaxpr.jaxpr))


def _reached(jaxpr: Any) -> tuple[bool, ...]:
    """Which outputs of a jaxpr depend on its inputs."""
    touched = set(jaxpr.invars)
    is_touched = lambda atom: not isinstance(atom, Literal) and atom in touched
    for equation in jaxpr.eqns:
        if any(map(is_touched, equation.invars)):
            touched.update(equation.outvars)
    return tuple(map(is_touched, jaxpr.outvars))


def _bucket(
    traced: _Traced, columns, count, place, *, method, batch_size, workers, resume, progress
) -> list[Any]:
    """The results of all cells that share structure, in order."""
    size = 1 if method == "loop" else min(batch_size or count, count)
    groups = [range(low, min(low + size, count)) for low in range(0, count, size)]
    if not isinstance(traced.rebuild(traced.shapes()), Simulation):
        groups = groups if columns else [range(count)]
        return _evaluate(traced, columns, groups, place, workers, resume, progress)
    arrays = traced.arrays(columns)

    def cell(i):
        return traced.rebuild([a[i] if v else a for a, v in zip(arrays, traced.varying, strict=True)])

    saves = cell(0).save_times.shape[0]
    with progress_bar(progress, len(groups) * saves) as bar:
        if method == "loop":
            return _loop(cell, count, place, workers, resume, bar)
        program = _vmapped(traced)
        runs = []
        for group in groups:
            part = slice(group.start, group.stop)
            batch = [a[part] if v else a for a, v in zip(arrays, traced.varying, strict=True)]
            where = None if place is None else place / f"cells-{group.start:05d}"
            runs += _batch(program, traced, batch, [cell(i) for i in group], where, resume, bar)
        return runs


def _in_threads(one: Callable[[Any], Any], items: Sequence[Any], workers: int | None) -> list[Any]:
    """`one` of every item, several at a time; the first alone: the others then share its program."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 4) if jax.default_backend() == "cpu" else 1
    first = [one(items[0])]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return first + list(pool.map(one, items[1:]))
        except BaseException:
            # An interrupt must not wait for the cells that are still queued.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _evaluate(traced: _Traced, columns, groups, place, workers, resume, progress) -> list[Any]:
    """The results of a function that returns arrays, group by group, each kept on disk once it is known."""
    directory = None
    if place is not None:
        directory = RunDirectory(place)
        program = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr.jaxpr))
        configuration = fingerprint((program, traced.jaxpr.consts, columns, [len(g) for g in groups]))
        # The sweep's own directory has been claimed; the first kill may have come before this one was.
        directory.open({"configuration": configuration}, resume)
    names = sorted(columns)
    single = jax.jit(traced.__call__)
    batched = jax.jit(jax.vmap(traced.__call__)) if names else None

    def one(group):
        number = len(group)
        alone = number == 1
        file = None if directory is None else directory.part(group.start)
        if file is not None and file.exists():
            like = [
                jax.ShapeDtypeStruct(s.shape if alone else (number, *s.shape), s.dtype)
                for s in traced.shapes()
            ]
            out = read_arrays(file, like)
        else:
            index = group.start if alone else slice(group.start, group.stop)
            out = (single if alone else batched)(*(columns[n][index] for n in names))
            if file is not None:
                write_arrays(file, out)
        bar.update(number)
        rows = [out] if alone else [[leaf[i] for leaf in out] for i in range(number)]
        return [jax.tree.map(np.asarray, traced.rebuild(row)) for row in rows]

    with progress_bar(progress, sum(map(len, groups))) as bar:
        return [row for rows in _in_threads(one, groups, workers) for row in rows]


def _loop(cell: Callable[[int], Simulation], count, place, workers, resume, bar) -> list[Run]:
    def one(i: int) -> Run:
        sim = cell(i)
        where = None if place is None else place / f"cell-{i:05d}"
        carry, records = drive(SOLO, sim, sim.save_times.shape[0], path=where, resume=resume, progress=bar)
        return assemble(sim.times, records, sim.measure, carry)

    return _in_threads(one, range(count), workers)


def _batch(program: Program, traced: _Traced, batch, sims: list[Simulation], place, resume, bar) -> list[Run]:
    saves = sims[0].save_times.shape[0]
    whole = traced.rebuild(batch)
    carry, records = drive(
        program, batch, saves, path=place, resume=resume, progress=bar, configuration=whole
    )
    take = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)
    return [assemble(sim.times, take(records, i), sim.measure, take(carry, i)) for i, sim in enumerate(sims)]


def _vmapped(traced: _Traced) -> Program:
    """The loop over a batch of cells as one array axis; what does not vary is shared, not copied."""
    axes = [0 if v else None for v in traced.varying]

    def start(batch):
        return jax.vmap(lambda leaves: begin(traced.rebuild(leaves)), in_axes=(axes,))(batch)

    def go(batch, carry, saves):
        one = lambda leaves, carry: advance(traced.rebuild(leaves), carry, saves)
        return jax.vmap(one, in_axes=(axes, 0))(batch, carry)

    return Program(eqx.filter_jit(start), eqx.filter_jit(go), 1)
