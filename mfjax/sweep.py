"""The only loop over cells: a function of named parameters over a product of axes, as one labeled table."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mfjax._engine.devices import gathered, together
from mfjax._engine.files import (
    BucketLayout,
    RunDirectory,
    SweepDirectory,
    environment,
    fingerprint,
    read_arrays,
    write_arrays,
)
from mfjax._engine.host import SOLO, Program, drive, progress_bar, schedule
from mfjax._engine.layouts import (
    METHODS,
    Bucket,
    Layout,
    Request,
    along,
    groups_of,
    placed,
    plan,
    plan_arrays,
    spans_processes,
    split,
    whole_mesh,
)
from mfjax._engine.run import Run, assemble
from mfjax._engine.simulation import Simulation
from mfjax._engine.table import Table as Table
from mfjax._engine.table import (
    Traced,
    check_ends,
    check_names,
    check_representable,
    checked_axes,
    is_numeric,
    report,
    tabulate,
    trace,
)
from mfjax._numerics.arrays import count


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
      threads; "map" compiles the loop over the cells of a group too; "vmap" runs a group as one array axis.
      "auto" takes "vmap" on accelerators; on CPU it times the first chunk of each and takes the fastest, or
      loops where there is less to do than to measure. Arrays are not measured: on CPU they are a loop, on
      several devices a map. `table.attributes["layout"]` says which, and why.
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
    axes = checked_axes(axes)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    unknown = set(static) - set(axes)
    if unknown:
        raise ValueError(f"static names no axis: {', '.join(sorted(unknown))}")
    traced = [n for n, v in axes.items() if n not in static and n != "width" and is_numeric(v)]
    for name in traced:
        check_representable(name, axes[name])
    if batch_size is not None:
        batch_size = count(batch_size, "batch_size")
    if workers is not None:
        workers = count(workers, "workers")
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the sweep to continue")
    if mesh is not None:
        mesh = whole_mesh(mesh)
        if method == "loop":
            raise ValueError('a loop has one cell in a program: mesh= needs method "map", "vmap" or "auto"')
    request = Request(method, batch_size, workers, mesh)
    # Of several processes that share a sweep the first writes, and all read.
    shared = spans_processes(mesh)
    writes = path is not None and not (shared and jax.process_index())
    if path is not None:
        plain = lambda v: v if isinstance(v, (bool, int, float, str)) else fingerprint(v)
        labels = {n: [plain(v) for v in values] for n, values in axes.items()}
        manifest = {"axes": labels, "static": sorted(static), "environment": environment()}
        asked = {"method": method, "batch_size": batch_size}
        asked["devices"] = None if mesh is None else mesh.devices.size
        free = method == "auto" and batch_size is None and mesh is None
        if writes:
            asked = SweepDirectory(path).open(manifest, resume, asked, free)
        if shared:
            together("the directory of the sweep is open")
        request = request._replace(method=asked["method"], batch_size=asked["batch_size"])
    fixed = [n for n in axes if n not in traced]
    cells: dict[tuple, Any] = {}
    layouts = {}
    for bucket in product(*(range(len(axes[n])) for n in fixed)):
        constant = {n: axes[n][i] for n, i in zip(fixed, bucket, strict=True)}
        name = "-".join(f"{n}-{i}" for n, i in zip(fixed, bucket, strict=True)) or "all"
        place = None if path is None else Path(path) / name
        indices = list(product(*(range(len(axes[n])) for n in traced)))
        # Whole numbers beyond 64 bits would make objects of the floats beside them.
        types = {n: float if any(isinstance(v, float) for v in axes[n]) else None for n in traced}
        columns = {n: np.asarray([axes[n][k[j]] for k in indices], types[n]) for j, n in enumerate(traced)}
        results, layout = _bucket(fn, constant, columns, axes, len(indices), place, request, resume, progress)
        layouts[name] = layout.as_dict()
        for index, result in zip(indices, results, strict=True):
            where = dict(zip(fixed, bucket, strict=True)) | dict(zip(traced, index, strict=True))
            cells[tuple(where[n] for n in axes)] = result
    table = tabulate(axes, cells, {"layout": layouts})
    if writes:
        table.save(Path(path) / "results.nc")
    report(table, throw)
    return table


def _bucket(
    fn, constant, columns, axes, count, place, request: Request, resume, progress
) -> tuple[list[Any], Layout]:
    """The results of all cells that share structure, in order, and how they were laid out."""
    traced = trace(fn, constant, columns)
    outline = traced.rebuild(traced.shapes())
    check_names(axes, outline)
    if not isinstance(outline, Simulation):
        return _evaluate(traced, columns, count, place, request, resume, progress)
    check_ends(fn, constant, columns)
    saves, every = outline.save_times.shape[0], outline.save_every

    def arrays(index):
        return traced.arrays([columns[n][index] for n in sorted(columns)])

    def one(index: int) -> Run:
        sim = traced.rebuild(arrays(index))
        where = None if place is None else place / f"cell-{index:05d}"
        carry, records = drive(SOLO, sim, saves, every, path=where, resume=resume, progress=bar)
        return assemble(sim.times, records, sim.measure, carry)

    def many(cells: np.ndarray) -> list[Run]:
        batch = arrays(cells)
        where = None if place is None else place / f"cells-{cells[0]:05d}"
        options = {"path": where, "resume": resume, "progress": bar}
        return _batch(program, traced, batch, len(cells), saves, every, mesh, options)

    try:
        alone = lambda index: traced.rebuild(arrays(index))
        batch = lambda cells, mesh: placed(arrays(cells), traced.varying, mesh)
        bucket = Bucket(traced, count, schedule(saves, every), alone, batch)
        layout, program = _planned(place, request, resume, bucket)
        mesh = whole_mesh(request.mesh) if layout.devices > 1 or request.mesh is not None else None
        loop = layout.method == "loop"
        groups = [] if loop else groups_of(count, layout.batch_size)
        with progress_bar(progress, (count if loop else len(groups)) * saves) as bar:
            if loop:
                return _in_threads(one, range(count), layout.workers), layout
            several = _in_threads(many, groups, layout.workers, compiled=True)
            return [run for runs in several for run in runs][:count], layout
    except (jax.errors.UnexpectedTracerError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            "the Simulation keeps a traced number of an axis where a sweep cannot see it: in a function that "
            "is a static field, or in an object of another kind. Make it an equinox Module that has the "
            f"number as a field, or name its axis, one of {', '.join(sorted(columns))}, in static=[...]"
        ) from error


def _planned(place, request: Request, resume: bool, bucket: Bucket) -> tuple[Layout, Program]:
    """The layout of a bucket, which its directory keeps, since the choice may fall otherwise another time."""
    if place is None:
        return plan(request, bucket, None)
    file = BucketLayout(place)
    kept = file.read() if resume else None
    layout, program = plan(request, bucket, None if kept is None else Layout.from_dict(kept))
    if kept is None and not (spans_processes(request.mesh) and jax.process_index()):
        file.write(layout.as_dict())
    return layout, program


def _in_threads(
    one: Callable[[Any], Any], items: Sequence[Any], workers: int, compiled: bool = False
) -> list[Any]:
    """`one` of every item, several at a time; the first alone if its program is yet to be compiled."""
    first = [] if compiled and workers > 1 else [one(items[0])]
    if workers == 1:
        return first + [one(item) for item in items[1:]]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return first + list(pool.map(one, items[len(first) :]))
        except BaseException:
            # An interrupt must not wait for the cells that are still queued.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _evaluate(
    traced: Traced, columns, count: int, place, request: Request, resume, progress
) -> tuple[list[Any], Layout]:
    """The results of a function that returns arrays, group by group, each kept on disk once it is known."""
    names = sorted(columns)
    layout, mesh = plan_arrays(request, count, bool(names))
    method = layout.method
    groups = groups_of(count, layout.batch_size)
    writes = place is not None and not (spans_processes(mesh) and jax.process_index())
    directory = None
    if place is not None:
        directory = RunDirectory(place)
        configuration = fingerprint((traced.jaxpr, columns, [len(g) for g in groups]))
        # The sweep's own directory has been claimed; the first kill may have come before this one was.
        if writes:
            directory.open({"configuration": configuration}, resume)
        if spans_processes(mesh):
            together("the directory of a bucket is open")
    stacked = (True,) * len(names)
    single = jax.jit(traced.__call__)
    batched = jax.jit(split(along(traced.__call__, method), mesh, stacked))

    def one(cells):
        number = len(cells)
        alone = method == "loop"
        file = None if directory is None else directory.part(int(cells[0]))
        if file is not None and file.exists():
            like = [
                jax.ShapeDtypeStruct(s.shape if alone else (number, *s.shape), s.dtype)
                for s in traced.shapes()
            ]
            out = read_arrays(file, like)
        else:
            values = [columns[n][cells[0] if alone else cells] for n in names]
            out = (single if alone else batched)(*placed(values, stacked, mesh))
            out = gathered(out)
            if file is not None and writes:
                write_arrays(file, out)
        bar.update(number)
        rows = [out] if alone else [[leaf[i] for leaf in out] for i in range(number)]
        return [jax.tree.map(np.asarray, traced.rebuild(row)) for row in rows]

    with progress_bar(progress, sum(map(len, groups))) as bar:
        rows = [row for rows in _in_threads(one, groups, layout.workers) for row in rows]
    return rows[:count], layout


def _batch(
    program: Program, traced: Traced, batch: list[Any], size: int, saves: int, every, mesh, options
) -> list[Run]:
    whole = traced.rebuild(batch)
    there = placed(batch, traced.varying, mesh)
    carry, records = drive(program, there, saves, every, configuration=whole, **options)
    runs = []
    for i in range(size):
        take = lambda leaf, i=i: leaf[i]
        sim = traced.rebuild([take(a) if v else a for a, v in zip(batch, traced.varying, strict=True)])
        own = jax.tree.map(take, (records, carry))
        runs.append(assemble(sim.times, own[0], sim.measure, own[1]))
    return runs
