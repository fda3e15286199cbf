"""The only loop over cells: a function of named parameters over a product of axes, as one labelled table."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

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
from mfjax.simulate import advance, begin, close, steps_only
from mfjax.simulation import Simulation
from mfjax.table import Table as Table
from mfjax.table import Traced, check_ends, check_names, checked_axes, is_numeric, report, tabulate, trace

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
    are structural: `fn` is traced once for each of their values, which it gets as Python values. The numbers
    at both ends of every axis are also shown to `fn` as such, computing nothing, so that what it constructs
    can refuse those out of range.

    Of the measures only the last is kept: record as observables what is needed of the others.

    - `method`: "loop" runs cells one after the other through one compiled program, several at a time in
      threads; "vmap" runs them as one array axis, in groups of `batch_size`; "auto" loops on CPU, where
      batches of small dense solves are slower than a loop, and batches on accelerators.
    - `workers`: threads of a loop on CPU, by default one per core, at most 4.
    - `path`, `resume`: stream every cell's run to a directory and continue a killed sweep, in mid-cell. The
      layout (method and batch size) is that of the directory, since it changes rounding.
    - `throw`: whether a failed cell raises at the end; otherwise it warns, the cell's results are NaN from
      its failure on, and the other cells are untouched.

    **Raises** `ValueError` for empty axes, NaN among them, unknown methods, numbers out of range, numbers
    that decide structure and are not named in `static`, and results whose shapes differ between cells.

    >>> import mfjax as mf
    >>> table = mf.sweep(lambda lam, seed: lam + seed, lam=[0.5, 1.0], seed=range(3))
    >>> table["value"].tolist()
    [[0.5, 1.5, 2.5], [1.0, 2.0, 3.0]]
    """
    axes = checked_axes(axes)
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
        columns = {n: np.asarray([axes[n][k[j]] for k in indices]) for j, n in enumerate(traced)}
        results = _bucket(fn, constant, columns, axes, len(indices), place, **options)
        for index, result in zip(indices, results, strict=True):
            where = dict(zip(fixed, bucket, strict=True)) | dict(zip(traced, index, strict=True))
            cells[tuple(where[n] for n in axes)] = result
    table = tabulate(axes, cells)
    if path is not None:
        table.save(Path(path) / "results.nc")
    report(table, throw)
    return table


def _bucket(
    fn, constant, columns, axes, count, place, *, method, batch_size, workers, resume, progress
) -> list[Any]:
    """The results of all cells that share structure, in order."""
    traced = trace(fn, constant, columns)
    outline = traced.rebuild(traced.shapes())
    check_names(axes, outline)
    size = 1 if method == "loop" else min(batch_size or count, count)
    groups = [range(low, min(low + size, count)) for low in range(0, count, size)]
    if not isinstance(outline, Simulation):
        groups = groups if columns else [range(count)]
        return _evaluate(traced, columns, groups, place, workers, resume, progress)
    check_ends(fn, constant, columns)
    # Without a number that varies there is no axis of cells.
    alone = method == "loop" or not any(traced.varying)
    saves, every = outline.save_times.shape[0], outline.save_every

    def arrays(index):
        return traced.arrays([columns[n][index] for n in sorted(columns)])

    def one(index: int) -> Run:
        sim = traced.rebuild(arrays(index))
        where = None if place is None else place / f"cell-{index:05d}"
        carry, records = drive(SOLO, sim, saves, every, path=where, resume=resume, progress=bar)
        return assemble(sim.times, records, sim.measure, carry)

    try:
        with progress_bar(progress, (count if alone else len(groups)) * saves) as bar:
            if alone:
                return _in_threads(one, range(count), workers)
            program, runs = _vmapped(traced), []
            for group in groups:
                batch = arrays(slice(group.start, group.stop))
                where = None if place is None else place / f"cells-{group.start:05d}"
                options = {"path": where, "resume": resume, "progress": bar}
                runs += _batch(program, traced, batch, len(group), saves, every, options)
            return runs
    except (jax.errors.UnexpectedTracerError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            "the Simulation keeps a traced number of an axis where a sweep cannot see it: in a function that "
            "is a static field, or in an object of another kind. Make it an equinox Module that has the "
            f"number as a field, or name its axis, one of {', '.join(sorted(columns))}, in static=[...]"
        ) from error


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


def _evaluate(traced: Traced, columns, groups, place, workers, resume, progress) -> list[Any]:
    """The results of a function that returns arrays, group by group, each kept on disk once it is known."""
    directory = None
    if place is not None:
        directory = RunDirectory(place)
        configuration = fingerprint((traced.jaxpr, columns, [len(g) for g in groups]))
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


def _batch(
    program: Program, traced: Traced, batch: list[Any], size: int, saves: int, every, options
) -> list[Run]:
    whole = traced.rebuild(batch)
    carry, records = drive(program, batch, saves, every, configuration=whole, **options)
    runs = []
    for i in range(size):
        take = lambda leaf, i=i: leaf[i]
        sim = traced.rebuild([take(a) if v else a for a, v in zip(batch, traced.varying, strict=True)])
        own = jax.tree.map(take, (records, carry))
        runs.append(assemble(sim.times, own[0], sim.measure, own[1]))
    return runs


def _vmapped(traced: Traced) -> Program:
    """The loop over a batch of cells as one array axis; what does not vary is shared, not copied."""
    axes = [0 if v else None for v in traced.varying]

    def start(batch):
        return jax.vmap(lambda leaves: begin(traced.rebuild(leaves)), in_axes=(axes,))(batch)

    def cells(function):
        def all_cells(batch, carry, *count):
            one = lambda leaves, carry: function(traced.rebuild(leaves), carry, *count)
            return jax.vmap(one, in_axes=(axes, 0))(batch, carry)

        return eqx.filter_jit(all_cells)

    return Program(eqx.filter_jit(start), cells(advance), cells(steps_only), cells(close), 1)
