"""`mf.sweep`: the only loop over cells, of a function of named parameters over a product of axes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mfjax._engine.axes import check_ends, check_names, checked_axes, traced_axes
from mfjax._engine.batching import (
    METHODS,
    Layout,
    Request,
    groups_of,
    plan,
    plan_arrays,
)
from mfjax._engine.cells import Cells, placed
from mfjax._engine.devices import as_here, gathered, spans_processes, together, whole_mesh
from mfjax._engine.directory import (
    MANIFEST,
    Directory,
    Place,
    environment,
    read_arrays,
    read_json,
    write_arrays,
)
from mfjax._engine.host import chunk_of, drive
from mfjax._engine.identity import closed_over, step_program, text_of
from mfjax._engine.progress import Progress
from mfjax._engine.progress import progress as shown
from mfjax._engine.simulation import Simulation
from mfjax._engine.timing import fastest
from mfjax._numerics.arrays import count, known
from mfjax._results.run import Run, assemble
from mfjax._results.table import Table, report, tabulate


def sweep(
    fn: Callable[..., Any],
    *,
    method: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    mesh: Mesh | None = None,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = False,
    static: Sequence[str] = (),
    axes: Mapping[str, Sequence[Any]] | None = None,
    **more: Sequence[Any],
) -> Table:
    """Evaluate `fn(**cell)` for every cell of the product of the named axes.

    `fn` returns a pytree of arrays, or an unevaluated `mf.Simulation`, which the sweep then runs with the
    machinery of `mf.simulate`. Axes are keywords, or the mapping `axes` where a name is taken by an option.

    Numbers of an axis are passed as traced scalars, so that all cells share one program, inside which `fn`
    stays: numbers that it keeps in closures, objects or static fields are those of their cell. Structural are
    axes of other values (strings, objects), those named in `static`, and those of whole numbers that `fn`
    needs as Python numbers, such as a width: there is one program for each of their values. The numbers at
    both ends of every axis are also shown to `fn` as such, computing nothing, so that what it constructs can
    refuse those out of range.

    Of the measures only the last is kept: record as observables what is needed of the others.

    - `method`: "loop" runs cells one after the other through one compiled program, several at a time in
      threads; "map" compiles the loop over the cells of a group too; "vmap" runs a group as one array axis.
      "auto" is a rule, the same at every call: "vmap" on accelerators, "map" on a mesh of processors, else
      "loop". "measure" compiles each, times its first chunk, and takes the fastest, which may be another one
      another time: methods differ in rounding. `table.attributes["layout"]` says which was taken, and why.
    - `batch_size`: cells in a group. By default, of runs as many as fit into half of the free memory, and for
      "vmap" on CPU into 8 MiB of cache but at least two; the compiled programs are asked what they need. Of
      arrays all cells, whether they fit or not; one a device where "auto" takes "map".
    - `workers`: programs at a time on CPU, in threads: by default one per core, at most 4; on a mesh one.
    - `mesh`: a `jax.make_mesh`, whose devices divide the cells of a group among them, all its axes taken
      together. Without one, "auto" uses all devices of the process. A CPU has one, unless a program says
      `jax.config.update("jax_num_cpu_devices", 2)` before JAX starts. Cells are repeated until their number
      is a multiple of the devices. In several processes (`jax.distributed.initialize` first, then the
      same call in each, with a mesh of all `jax.devices()`) every process gets the whole table; the first
      alone writes, and all must see its directory.
    - `path`, `resume`: stream every cell's run to a directory and continue a killed sweep, in mid-cell. The
      layout (method, batch size, devices) is that of the directory, since it changes rounding.
    - `throw`: whether a failed cell raises at the end; otherwise it warns, the cell's results are NaN from
      its failure on, and the other cells are untouched.

    **Raises** `ValueError` for empty axes, NaN or texts among numbers, unknown methods, numbers that the
    precision turns into others (zero, infinity, a neighbor, another whole number), numbers out of range,
    numbers that decide structure and are not named in `static`, and results whose shapes differ between
    cells.

    >>> import mfjax as mf
    >>> table = mf.sweep(lambda lam, seed: lam + seed, lam=[0.5, 1.0], seed=range(3))
    >>> table["value"].tolist()
    [[0.5, 1.5, 2.5], [1.0, 2.0, 3.0]]
    """
    twice = sorted(set(axes or ()) & set(more))
    if twice:
        raise ValueError(f"the axis {twice[0]} is given twice")
    named = checked_axes({**(axes or {}), **more})
    request, traced = _checked(fn, named, method, batch_size, workers, mesh, path, resume, static)
    fixed = [n for n in named if n not in traced]
    # Of several processes that share a sweep the first writes, and all read.
    shared = spans_processes(request.mesh)
    writes = path is not None and not (shared and jax.process_index())
    cells: dict[tuple, Any] = {}
    layouts, rises, undefined = {}, {}, {}
    place = None if path is None else Directory(path)
    again = None if path is None else f"the same call with resume=True goes on from {path}"
    total = prod(len(values) for values in named.values())
    with place or nullcontext(), shown(progress, total, "cells", again) as bar:
        if place is not None:
            request = _opened(place, request, named, fixed, resume, writes, shared)
        indices = list(product(*(range(len(named[n])) for n in traced)))
        columns = _columns(named, traced, indices)
        for bucket in product(*(range(len(named[n])) for n in fixed)):
            constant = {n: named[n][i] for n, i in zip(fixed, bucket, strict=True)}
            name = "-".join(f"{n}-{i}" for n, i in zip(fixed, bucket, strict=True)) or "all"
            where = None if path is None else Directory(Path(path) / name)
            bar.compiling(", ".join(f"{n} = {v}" for n, v in constant.items()) or "mfjax")
            results, layout, falls = _bucket(
                fn, constant, columns, named, where, request, resume, writes, bar
            )
            layouts[name] = layout.as_dict()
            for index, result in zip(indices, results, strict=True):
                at = dict(zip(fixed, bucket, strict=True)) | dict(zip(traced, index, strict=True))
                cell = tuple(at[n] for n in named)
                cells[cell] = result
                if falls and (rise := result.rise):
                    rises[cell] = rise
                if isinstance(result, Run) and (lost := result.undefined):
                    undefined[cell] = lost
        table = tabulate(named, cells, {"layout": layouts})
        if writes:
            table.save(Path(known(path)) / "results.nc")
    report(table, throw, rises, undefined)
    return table


def _columns(axes, traced: list[str], indices: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The numbers of every cell that shares a program, axis by axis."""
    # Whole numbers beyond 64 bits would make objects of the floats beside them.
    types = {n: float if any(isinstance(v, float) for v in axes[n]) else None for n in traced}
    return {n: np.asarray([axes[n][k[j]] for k in indices], types[n]) for j, n in enumerate(traced)}


def _checked(fn, axes, method, batch_size, workers, mesh, path, resume, static) -> tuple[Request, list[str]]:
    """What is asked for, and the axes whose numbers are traced."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    unknown = set(static) - set(axes)
    if unknown:
        raise ValueError(f"static names no axis: {', '.join(sorted(unknown))}")
    batch_size = None if batch_size is None else count(batch_size, "batch_size")
    workers = None if workers is None else count(workers, "workers")
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the sweep to continue")
    if mesh is not None:
        mesh = whole_mesh(mesh)
        if method == "loop":
            raise ValueError('a loop has one cell in a program: mesh= needs method "map", "vmap" or "auto"')
    return Request(method, batch_size, workers, mesh), traced_axes(fn, axes, static)


def _opened(directory, request: Request, axes, fixed, resume, writes, shared) -> Request:
    """Claim the directory of a sweep: the request, whose layout is the stored one if the choice is free."""
    plain = lambda v: v if isinstance(v, (bool, int, float, str)) else type(v).__name__
    manifest = {
        "axes": {n: [plain(v) for v in values] for n, values in axes.items()},
        "structural": sorted(fixed),
        "environment": environment(),
    }
    asked = {"method": request.method, "batch_size": request.batch_size}
    asked["devices"] = None if request.mesh is None else int(request.mesh.devices.size)
    if writes:
        stored = directory.check(manifest, resume)
        free = request.method == "auto" and request.batch_size is None and request.mesh is None
        if stored is not None and free:
            asked = stored["layout"]
        directory.check({"layout": asked}, resume)
        directory.claim(manifest | {"layout": asked})
    if shared:
        together("the directory of the sweep is open")
    return request._replace(method=asked["method"], batch_size=asked["batch_size"])


def _bucket(
    fn, constant, columns, axes, directory, request: Request, resume, writes, bar: Progress
) -> tuple[list[Any], Layout, bool]:
    """The results, in order, of all cells that share structure; their layout; whether energies must fall."""
    cells = Cells(fn, constant, columns)
    check_names(axes, cells.outline)
    if not isinstance(cells.outline, Simulation):
        return *_evaluate(cells, directory, request, resume, writes, bar), False
    check_ends(fn, constant, columns)
    saves, every = cells.outline.save_times.shape[0], cells.outline.save_every
    kept = None
    if directory is not None:
        step = step_program(cells.simulation, cells.inputs_of_one)
        manifest = {"numbers": closed_over(cells.program, step), "save_every": every}
        kept = _claimed(directory, manifest, text_of(cells.program, step), resume, writes)
    chosen = fastest if request.method == "measure" and kept is None and cells.names else plan
    layout, programs = chosen(request, cells, chunk_of(saves, every), kept)
    if directory is not None and writes and kept is None:
        directory.amend({"layout": layout.as_dict()})
    mesh = whole_mesh(request.mesh) if layout.devices > 1 or request.mesh is not None else None
    loop = layout.method == "loop"
    cells.prepare()
    groups = list(range(cells.number)) if loop else groups_of(cells.number, known(layout.batch_size))

    def one(group) -> list[Run]:
        inputs = placed(cells.inputs(group), None if loop else mesh)
        whole = cells.assembled(inputs)
        label = f"cell-{group:05d}" if loop else f"cells-{group[0]:05d}"
        place = None if directory is None else Place(directory.path / label)
        carry, records = drive(
            programs,
            inputs,
            _times(whole, None if loop else len(group)),
            every,
            place=place,
            writes=writes,
            update=bar.of(np.unique(group).size),
        )
        if loop:
            return [assemble(whole, records, carry, make=partial(cells.declared, group))]
        return [_member(cells, inputs, carry, records, i, int(group[i])) for i in range(len(group))]

    runs = _in_threads(one, groups, layout.workers)
    runs = [run for several in runs for run in several][: cells.number]
    return runs, layout, cells.outline.falls


def _times(sim: Simulation, size: int | None) -> np.ndarray:
    """The saved times of a cell, or of each of several, the first one included."""
    times = np.asarray(sim.times)
    return times if size is None else np.broadcast_to(times, (size, times.shape[-1]))


def _member(cells: Cells, inputs, carry, records, index: int, number: int) -> Run:
    """One run of a group, that of cell `number`."""
    take = lambda leaf: leaf[index]
    own = inputs._replace(own=[take(leaf) for leaf in gathered(inputs.own)])
    sim = cells.assembled(own)
    records, carry = jax.tree.map(take, (records, carry))
    return assemble(sim, records, carry, make=partial(cells.declared, number))


def _claimed(directory: Directory, manifest, text: str, resume, writes) -> Layout | None:
    """The layout that a bucket of cells was begun with; its directory is claimed, as part of the sweep's."""
    begun = (directory.path / MANIFEST).exists()
    if writes:
        stored = directory.check(manifest, resume or not begun)
        directory.check_program(text)
        directory.claim(manifest, text, lock=False)
    else:
        stored = read_json(directory.path / MANIFEST) if resume and begun else None
    return Layout(**stored["layout"]) if stored is not None and "layout" in stored else None


def _in_threads(one: Callable[[Any], Any], items: Sequence[Any], workers: int) -> list[Any]:
    """`one` of every item, several at a time, under the settings of this thread."""
    if workers == 1:
        return [one(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(as_here(one), items))
        except BaseException:
            # An interrupt must not wait for the cells that are still queued.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _evaluate(
    cells: Cells, directory, request: Request, resume, writes, bar: Progress
) -> tuple[list[Any], Layout]:
    """The results of a function that returns arrays, group by group, each kept on disk once it is known."""
    layout, mesh = plan_arrays(request, cells.number, bool(cells.names))
    alone = layout.method == "loop"
    groups = groups_of(cells.number, known(layout.batch_size))
    if directory is not None:
        manifest = {"numbers": closed_over(cells.program), "layout": layout.as_dict() | {"workers": 1}}
        _claimed(directory, manifest, text_of(cells.program), resume, writes)
        place = Place(directory.path)
        if writes:
            place.open()
        if spans_processes(mesh):
            together("the directory of a bucket is open")
    program = cells.program if alone else cells.arrays_of_many(layout.method, mesh)

    def one(group) -> list[Any]:
        number = len(group)
        inputs = placed(cells.values(group[0] if alone else group), mesh)
        file = None if directory is None else place.part(int(group[0]))
        if file is not None and file.exists():
            shape = lambda s: jax.ShapeDtypeStruct(s.shape if alone else (number, *s.shape), s.dtype)
            out = read_arrays(file, [shape(s) for s in jax.tree.leaves(cells.outline)])
        else:
            out = gathered(program.arrays(inputs))
            if file is not None and writes:
                write_arrays(file, out)
        bar.of(np.unique(group).size)(1.0)
        rows = [out] if alone else [[leaf[i] for leaf in out] for i in range(number)]
        return [jax.tree.map(np.asarray, cells.program.assembled(row)) for row in rows]

    rows = [row for rows in _in_threads(one, groups, layout.workers) for row in rows]
    return rows[: cells.number], layout
