"""What a run leaves behind: labeled arrays over saved times."""

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._results.formats import write
from mfjax._results.labels import GridLabels, coordinate_names, free_name, grid_labels
from mfjax._results.origin import Origin
from mfjax.domains import Domain
from mfjax.measures import Grid, Measure

# Recorded with every run, with unit and meaning.
RECORDED = {
    "energy": "energy of the flow (its smooth part where noise acts), NaN where it is not known",
    "dissipation": "minus the rate of the energy along the flow [energy / flow time]",
    "dissipated": "integral of the dissipation since t = 0 (trapezoidal), NaN where noise acts [energy]",
    "residual": "relative residual of the outer solve",
    "mass": "total mass",
    "min_weight": "smallest mass of a particle or cell",
    "steps": "accepted steps since t = 0",
    "rejected": "rejected steps since t = 0",
    "evaluations": "evaluations of the flow in steps, with as many outer solves, rejected ones included",
    "status": "outcome code, 0 = fine, -1 = ended by stop= (mfjax.status)",
}

# What runs, tables and their files call other things: no observable may have these names, or begin so.
RESERVED = (*RECORDED, "time", "times", "save", "points", "weights", "particle", "cell", "coordinate")
RESERVED_PREFIXES = ("final_", "mark_")


class Run(eqx.Module):
    """The saved history of one simulation: the leading axis of every array holds the S saved times.

    - `times` (S,) in flow time;
    - `observables`: mapping from names to arrays (S, ...): those asked for, and `energy`, `dissipation`,
      `dissipated`, `residual`, `mass`, `min_weight`, `steps`, `rejected`, `status`, and `evaluations` of
      the flow where the scheme knows their number;
    - `measures`: the measures at the saved times, or `None`: particles with points (S, K, d), weights (S, K)
      and marks (S, K, ...), or a grid whose weights and marks are (S, K, ...) and whose points (K, d) stay;
    - `final`: the measure at the end;
    - `status`: 0, or why the run stopped at step `failed_at` (`mfjax.status.describe`); -1 where `stop`
      ended it, after which records repeat the last one; those of a failed run are NaN, its measure the last
      good one;
    - `end`: the whole state at the end, from which `mf.simulate(flow, start=run)` goes on; `None` for the
      cells of a sweep, inside `jit`, `vmap` and `grad`, and for a run that was loaded from a file;
    - `domain`: where the measures live, and `settings`, plain numbers and texts that say what was run.
      Both are lost on the way through `jit`, `vmap` and `jax.tree.map`.
    """

    times: Float[Array, " S"]
    observables: dict[str, Any]
    measures: Measure | None
    final: Measure
    status: Int[Array, ""]
    failed_at: Int[Array, ""]
    end: Any = None
    origin: Origin = Origin()

    def measure(self, index: int) -> Measure:
        """The measure at saved time number `index`."""
        if self.measures is None:
            raise ValueError("this run kept no measures: pass save_measures=True")
        return measure_at(self.measures, index)

    @property
    def domain(self) -> Domain | None:
        """The domain that the measures live on; `None` where it is not known."""
        return self.origin.domain

    @property
    def settings(self) -> dict[str, Any]:
        """Names of the classes of flow, energy and stepper, the domain, and every single number by its path.

        What functions close over is not among them, nor are arrays. Empty where nothing is known.
        """
        return self.origin.settings

    @property
    def certificates(self) -> dict[str, float]:
        """Dissipation balance, mass drift, positivity and solver residual of the whole run."""
        from mfjax.theory.certificates import certify

        return certify(self.observables)

    @property
    def rise(self) -> str | None:
        """How the energy rises, in words, where it does beyond rounding (`mf.status.risen`)."""
        seen = self.observables
        return codes.risen(self.times, seen["energy"], seen["dissipated"], seen["steps"])

    @property
    def undefined(self) -> str | None:
        """Which observable that was asked for is NaN, in words, at saved times at which the run was fine."""
        fine = np.asarray(self.observables["status"]) <= codes.OK
        if fine.ndim != 1:
            raise ValueError("these are several runs, of a batch: ask each of them")
        own = {name: value for name, value in self.observables.items() if name not in RECORDED}
        for name, values in named_arrays(own).items():
            if not getattr(values, "is_fully_addressable", True):
                continue
            values = np.asarray(values)
            if not np.issubdtype(values.dtype, np.inexact):
                continue
            lost = fine & np.isnan(values).reshape(len(fine), -1).any(axis=1)
            if lost.any():
                first = float(np.asarray(self.times)[np.argmax(lost)])
                return f"{name!r} is NaN at {lost.sum()} of {len(fine)} saved times, first at t = {first:.4g}"
        return None

    def to_xarray(self) -> Any:
        """The run as an `xarray.Dataset` with coordinate `time`.

        Masses and `density` of a grid have its axes, with coordinates and units; settings are attributes.
        """
        return dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write the run as a file, by its ending.

        - `.nc`: netCDF with all of `to_xarray`, which `mf.load` and `xarray.open_dataset` read;
        - `.mat`: the same for MATLAB and Octave;
        - `.csv`: the observables, a row for each saved time;
        - `.pvd`: the measures for ParaView, one file beside it for each saved time.

        **Raises** `ValueError` for another ending, and where a format cannot hold the run.
        """
        return write(self.to_xarray(), path)

    def describe(self) -> str:
        """One line: how far it got, and why it stopped."""
        code = int(self.status)
        times = np.asarray(self.times)
        if code == codes.OK:
            return f"completed to t = {times[-1]:g}"
        if code == codes.STOPPED:
            last = np.argmax(np.asarray(self.observables["status"]) == code)
            return f"ended at t = {times[last]:g}, before t = {times[-1]:g}: {codes.describe(code)}"
        if int(self.failed_at) == 0:
            return f"could not start: {codes.describe(code)}"
        good = np.flatnonzero(np.asarray(self.observables["status"]) == codes.OK)
        reached = times[good[-1]] if good.size else 0.0
        where = f"step {int(self.failed_at)}, after the saved time t = {reached:g}"
        return f"stopped at {where}: {codes.describe(code)}"


def measure_at(measures: Measure, index: int) -> Measure:
    """One of several measures, as a run holds them."""
    if isinstance(measures, Grid):
        here = jax.tree.map(lambda leaf: leaf[index], (measures.weights, measures.marks))
        return eqx.tree_at(lambda grid: (grid.weights, grid.marks), measures, here)
    return jax.tree.map(lambda leaf: leaf[index], measures)


def assemble(
    sim: Any, records: Any, carry: Any, end: Any = None, make: Callable[[], Any] | None = None
) -> Run:
    """The run of `sim` from what the loop recorded and where it ended.

    `end` is that carry, if it is kept; `make` declares the run once more, if it is the cell of a sweep.
    """
    initial = sim.measure
    measures, values = records
    unknown = lambda: np.full(np.shape(values["mass"]), np.nan, values["mass"].dtype)
    values = {name: unknown() if value is None else value for name, value in values.items()}
    if isinstance(initial, Grid) and measures is not None:
        # Not a grid's `with_weights`, which is for one measure.
        measures = eqx.tree_at(lambda grid: (grid.weights, grid.marks), initial, measures)
    final, origin = carry.state.measure, Origin.of(sim, make) if end is None else Origin(sim)
    return Run(sim.times, values, measures, final, carry.status, carry.failed_at, end, origin)


def dataset(run: Run) -> Any:
    """Labeled copy of a run: measures as `points`, `weights`, `density` and marks, observables by name.

    The measure at the end, with "final_" before its names, where it is not that of the last saved time.

    **Raises** `ValueError` as `named_arrays` does.
    """
    import xarray as xr

    variables: dict[str, Any] = {}
    arrays = named_arrays(run.observables)
    for name, leaf in arrays.items():
        text = {"long_name": RECORDED[name]} if name in RECORDED else {}
        axes = ("time", *axis_labels(name, np.ndim(leaf) - 1, arrays))
        variables[name] = (axes, np.asarray(leaf), text)
    labels = None
    if isinstance(run.final, Grid):
        labels = grid_labels(run.final, run.domain, {*arrays, *RESERVED})
    kept = {"": run.measures} if run.measures is not None else {}
    if run.measures is None or not _same(run.measure(-1), run.final):
        kept["final_"] = run.final
    for prefix, mu in kept.items():
        flat = {}
        for name, value, axes in measure_arrays(mu):
            flat[prefix + name] = ((*("time",) * (np.ndim(value) - len(axes)), *axes), np.asarray(value))
        variables |= placed(flat, labels, arrays)
    attributes = {"kind": "run", "status": int(run.status), "failed_at": int(run.failed_at)}
    attributes |= {"outcome": run.describe(), "observables": list(arrays)} | run.settings
    names = coordinate_names(run.domain, run.final.points.shape[-1])
    data = xr.Dataset(variables, attrs=as_attributes(attributes | described_grid(run.final, labels)))
    times = ("time", np.asarray(run.times), {"units": "flow time"})
    return data.assign_coords(time=times, coordinate=names, **(labels.coordinates if labels else {}))


def _same(a: Measure, b: Measure) -> bool:
    """Whether two measures are equal, bit for bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs)


def placed(flat: dict[str, Any], labels: GridLabels | None, taken: Container[str]) -> dict[str, Any]:
    """Variables of measures with the axes of their grid, if there is one, and its density."""
    if labels is None:
        return flat
    found = {}
    for name, (axes, value) in flat.items():
        found[name] = labels.laid_out(axes, value)
        if name.endswith("weights"):
            density, text = labels.density(found[name][1])
            found[free_name(name.replace("weights", "density"), taken)] = (found[name][0], density, text)
    return found


def described_grid(mu: Measure, labels: GridLabels | None) -> dict[str, Any]:
    """What a file says of a grid beside its arrays, so that it can be made again."""
    if labels is None or not isinstance(mu, Grid):
        return {}
    found: dict[str, Any] = {"axes": [axis.name for axis in labels.axes], "shape": list(mu.shape)}
    found |= {"units": [axis.unit for axis in labels.axes], "unit": labels.unit}
    found |= {"volume": np.asarray(labels.volume).tolist()}
    found |= {"periodic": list(mu.periodic), "frozen": list(mu.frozen), "noiseless": list(mu.noiseless)}
    listed = lambda tree: jax.tree.map(lambda a: np.asarray(a).tolist(), tree)
    metric = None if mu.metric is None else listed(mu.metric._asdict())
    return {"grid": found | {"spacing": listed(mu.spacing), "metric": metric}}


def as_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that a file can hold: numbers and texts, all else as JSON."""
    from mfjax import __version__

    simple = {n: v if isinstance(v, (str, int, float)) else json.dumps(v) for n, v in values.items()}
    return {"mfjax": __version__} | simple


def is_reserved(name: str) -> bool:
    """Whether runs and tables use a name for something other than an observable of the user."""
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)


def named_arrays(observables: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of all observables, by the names that files and tables give them.

    **Raises** `ValueError` if a name is reserved, or two arrays have the same.
    """
    found: dict[str, Any] = {}
    for name, value in observables.items():
        for suffix, leaf in named_leaves(value):
            full = name + suffix
            if full in found or (name not in RECORDED and is_reserved(full)):
                raise ValueError(
                    f"the observable {name!r} would be stored as {full!r}, a name that is taken; choose "
                    "another"
                )
            found[full] = leaf
    return found


def named_leaves(value: Any) -> list[tuple[str, Any]]:
    """The array leaves of a result, with a suffix for each where there are several."""
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if len(leaves) == 1:
        return [("", leaves[0][1])]
    name = lambda path: "_" + jax.tree_util.keystr(path, simple=True, separator="_")
    return [(name(path), leaf) for path, leaf in leaves]


def axis_labels(name: str, number: int, taken: Container[str]) -> tuple[str, ...]:
    """Labels of the last axes of the array `name`: none is the name of an array, which would be its scale."""
    labels = []
    for i in range(number):
        label = f"{name}_{i}"
        while label in taken:
            label += "_"
        labels.append(label)
    return tuple(labels)


def measure_arrays(mu: Measure) -> list[tuple[str, Any, tuple[str, ...]]]:
    """(name, array, labels of its last axes) for the arrays of a measure."""
    each = "cell" if isinstance(mu, Grid) else "particle"
    arrays = [("points", mu.points, (each, "coordinate")), ("weights", mu.weights, (each,))]
    names = [f"mark_{name}" for name in mu.marks]
    for name, mark in zip(names, mu.marks.values(), strict=True):
        arrays.append((name, mark, (each, *axis_labels(name, mark.ndim - mu.weights.ndim, names))))
    return arrays
