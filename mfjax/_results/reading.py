"""`mf.load`: runs and tables back from their files."""

import json
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from mfjax._files import exact
from mfjax._numerics.arrays import known
from mfjax._results.datasets import read_dataset
from mfjax._results.labels import GridAxis, GridLabels
from mfjax._results.origin import Origin
from mfjax._results.run import Run, measure_at
from mfjax._results.table import Table
from mfjax.domains import Domain, Metric
from mfjax.domains.description import rebuilt
from mfjax.measures import Grid, Measure, Particles

T = TypeVar("T")
RESULTS = "results.nc"


def load(path: str | Path, domain: Domain | None = None) -> Run | Table:
    """Read back what `Run.save` or `Table.save` wrote as netCDF, or what a run directory holds.

    A `Run` has its saved times, observables, measures (`measure(i)`, `final`), status, domain and settings,
    equal bit for bit; an observable of several arrays comes as one for each, by its name in the file. It
    cannot be gone on from: `mf.simulate(..., path=, resume=True)` does that. A `Table` has its axes, values
    and attributes; axes of objects come as their texts.

    - `path`: a file of ending .nc, or a directory that `mf.simulate(path=)` or `mf.sweep(path=)` wrote.
    - `domain`: that of a run on a domain of your own, of which a file knows the name alone.

    **Raises** `ValueError` for a file of something else, a missing domain, and measures in double precision
    where JAX has single.

    >>> import tempfile, mfjax as mf
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x), mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.ones((1, 1)))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.25), steps=2)
    >>> back = load(run.save(tempfile.mkdtemp() + "/run.nc"))
    >>> back.times.tolist(), back.measure(1).points.tolist(), back.domain, back.settings["stepper"]
    ([0.0, 0.25, 0.5], [[0.5]], Euclidean(dim=1), 'Euler')
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    if not file.exists():
        hint = ": a run there has not ended" if path.is_dir() else ""
        raise ValueError(f"{file} does not exist{hint}")
    try:
        data = read_dataset(file)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{file} is no netCDF file of mfjax ({error}): results are read from .nc") from error
    kind = data.attrs.get("kind")
    if kind not in ("run", "table"):
        raise ValueError(f"{file} was not written by this version's save: read it by xarray.open_dataset")
    return _run(data, file, domain) if kind == "run" else _table(data)


def _run(data: Any, file: Path, domain: Domain | None) -> Run:
    attributes = _plain(data.attrs)
    own = {"mfjax", "kind", "status", "failed_at", "outcome", "observables", "grid"}
    settings = {name: value for name, value in attributes.items() if name not in own}
    if domain is None and "domain" in settings:
        domain = rebuilt(settings["domain"])
        if domain is None:
            raise ValueError(
                f"{file} is a run on a {settings['domain']['class']}, which is not a domain of mfjax: pass "
                "load(path, domain=...)"
            )
    grid, saves = attributes.get("grid"), data.sizes["time"]
    measures = _measure(data, "", grid, (saves,)) if "weights" in data else None
    if "final_weights" in data:
        final = _measure(data, "final_", grid, ())
    else:
        final = measure_at(known(measures), -1)
    observables = {name: data[name].values for name in attributes["observables"]}
    status, failed_at = (jnp.asarray(attributes[name], jnp.int32) for name in ("status", "failed_at"))
    times = exact(data["time"].values, "time")
    return Run(times, observables, measures, final, status, failed_at, None, Origin.known(domain, settings))


def _table(data: Any) -> Table:
    attributes = _plain(data.attrs)
    names, grid = attributes["axes"], attributes.get("grid")
    dims = set(grid["axes"]) if grid else set()
    values, result_axes = {}, {}
    for name, array in data.data_vars.items():
        if grid and str(name).startswith("final_density"):
            continue
        rest = list(array.dims[len(names) :])
        flat = array.values
        if grid and dims & set(rest):
            first = rest.index(grid["axes"][0])
            cells = slice(first, first + len(dims))
            shape = list(flat.shape[len(names) :])
            rest[cells], shape[cells] = ["cell"], [-1]
            flat = flat.reshape(*flat.shape[: len(names)], *shape)
        values[name], result_axes[name] = flat, tuple(rest)
    axes = {name: tuple(data[name].values.tolist()) for name in names}
    kept = {n: v for n, v in attributes.items() if n not in ("mfjax", "kind", "axes")}
    coordinates = tuple(data["coordinate"].values.tolist()) if "coordinate" in data.coords else ()
    return Table(axes, values, result_axes, kept, _labels(data, grid), coordinates)


def _labels(data: Any, grid: dict | None) -> GridLabels | None:
    if grid is None:
        return None
    axes = []
    for name, size in zip(grid["axes"], grid["shape"], strict=True):
        place = data.coords.get(name)
        values = None if place is None else tuple(place.values.tolist())
        axes.append(GridAxis(name, size, values, grid["units"][len(axes)]))
    volume = grid["volume"] if isinstance(grid["volume"], float) else np.asarray(grid["volume"])
    return GridLabels(tuple(axes), volume, grid["unit"])


def _measure(data: Any, prefix: str, grid: dict | None, leading: tuple[int, ...]) -> Measure:
    """The measure, or those at all saved times, whose arrays have `prefix` before their names."""
    marks = {}
    for name in data.data_vars:
        if str(name).startswith(f"{prefix}mark_"):
            marks[str(name).removeprefix(f"{prefix}mark_")] = exact(data[name].values, name)
    points, weights = (exact(data[f"{prefix}{name}"].values, name) for name in ("points", "weights"))
    if grid is None:
        return _made(Particles, points=points, weights=weights, marks=marks)
    if not isinstance(grid.get("frozen"), (list, tuple)):
        raise ValueError(
            "the file is of an unreleased version of mfjax, which kept frozen axes otherwise: make it anew"
        )
    cells = len(grid["shape"])
    flat = lambda a, lead: a.reshape(*lead, -1, *a.shape[len(lead) + cells :])
    return _made(
        Grid,
        points=flat(points, ()),
        weights=flat(weights, leading),
        marks={name: flat(mark, leading) for name, mark in marks.items()},
        spacing=jnp.asarray(grid["spacing"], points.dtype),
        metric=_metric(grid.get("metric"), points.dtype),
        shape=tuple(grid["shape"]),
        periodic=tuple(grid["periodic"]),
        frozen=tuple(grid["frozen"]),
        noiseless=tuple(grid["noiseless"]),
    )


def _metric(sizes: dict | None, dtype: Any) -> Metric | None:
    if sizes is None:
        return None
    array = lambda numbers: jnp.asarray(numbers, dtype)
    each = (tuple(map(array, sizes[name])) for name in ("areas", "distances"))
    return Metric(array(sizes["volume"]), *each)


def _made(kind: type[T], **fields: Any) -> T:
    """A measure of these fields, which were checked when it was first made and may be those of many."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as they were before `as_attributes`: numbers, texts, and what JSON holds."""
    read = lambda value: value.item() if isinstance(value, np.generic) else value
    values = {name: read(value) for name, value in attributes.items()}
    is_json = lambda value: isinstance(value, str) and value[:1] in ("[", "{")
    return {name: json.loads(value) if is_json(value) else value for name, value in values.items()}
