"""What a run leaves behind: labeled arrays over saved times."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax import status as codes
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
    "evaluations": "evaluations of the flow, with as many outer solves, since t = 0; rejected steps included",
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
      cells of a sweep, and inside `jit`, `vmap` and `grad`.
    """

    times: Float[Array, " S"]
    observables: dict[str, Any]
    measures: Measure | None
    final: Measure
    status: Int[Array, ""]
    failed_at: Int[Array, ""]
    end: Any = None

    def measure(self, index: int) -> Measure:
        """The measure at saved time number `index`."""
        if self.measures is None:
            raise ValueError("this run kept no measures: pass save_measures=True")
        if isinstance(self.measures, Grid):
            saved = (self.measures.weights, self.measures.marks)
            here = jax.tree.map(lambda leaf: leaf[index], saved)
            return eqx.tree_at(lambda grid: (grid.weights, grid.marks), self.measures, here)
        return jax.tree.map(lambda leaf: leaf[index], self.measures)

    @property
    def certificates(self) -> dict[str, float]:
        """Dissipation balance, mass drift, positivity and solver residual of the whole run."""
        from mfjax.theory.certificates import certify

        return certify(self.observables)

    def to_xarray(self) -> Any:
        """The run as an `xarray.Dataset` with coordinate `time`."""
        return dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write the run as one netCDF file, which `xarray.open_dataset` reads."""
        from mfjax._engine.datasets import write_dataset

        return write_dataset(self.to_xarray(), path)

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


def risen(run: Run) -> str | None:
    """What the energy of a flow that lowers it does instead, if its steps are too large."""
    energy, dissipated = (np.asarray(run.observables[name]) for name in ("energy", "dissipated"))
    unit = float(jnp.finfo(energy.dtype).eps)
    known = np.isfinite(energy) & np.isfinite(dissipated)
    energy, times = energy[known].astype(float), np.asarray(run.times)[known]
    if energy.size < 2:
        return None
    lowest = np.minimum.accumulate(energy)[:-1]
    rise = energy[1:] - lowest
    # A kink that a step crosses may lift it a little.
    slack = RISE * (energy[0] - lowest) + 1e3 * unit * np.maximum.accumulate(np.abs(energy))[:-1]
    worst = int(np.argmax(rise - slack))
    if rise[worst] <= slack[worst]:
        return None
    return (
        f"its energy rose from {lowest[worst]:.4g} to {energy[worst + 1]:.4g} by t = {times[worst + 1]:.4g}"
    )


# Of the fall so far: a larger rise comes from steps that are too large.
RISE = 1e-2
REMEDY = "the flow lowers it, so that the steps are too large: take a smaller dt, or an adaptive stepper"


def assemble(times: Any, records: Any, initial: Measure, carry: Any, end: Any = None) -> Run:
    """A run from what the loop recorded and where it ended; `end` is that carry, where it is kept."""
    measures, values = records
    unknown = lambda: np.full(np.shape(values["mass"]), np.nan, values["mass"].dtype)
    values = {name: unknown() if value is None else value for name, value in values.items()}
    if isinstance(initial, Grid) and measures is not None:
        # Not a grid's `with_weights`, which is for one measure.
        measures = eqx.tree_at(lambda grid: (grid.weights, grid.marks), initial, measures)
    return Run(times, values, measures, carry.state.measure, carry.status, carry.failed_at, end)


def dataset(run: Run) -> Any:
    """Labeled copy of a run: measures as `points`, `weights` and marks, observables by name.

    **Raises** `ValueError` as `named_arrays` does.
    """
    import xarray as xr

    variables: dict[str, Any] = {}
    arrays = named_arrays(run.observables)
    for name, leaf in arrays.items():
        text = {"long_name": RECORDED[name]} if name in RECORDED else {}
        axes = ("time", *axis_labels(name, np.ndim(leaf) - 1, arrays))
        variables[name] = (axes, np.asarray(leaf), text)
    if run.measures is not None:
        for name, value, axes in measure_arrays(run.measures):
            variables[name] = (("time", *axes) if np.ndim(value) > len(axes) else axes, np.asarray(value))
    attributes = {"status": int(run.status), "outcome": run.describe()}
    data = xr.Dataset(variables, attrs=attributes)
    return data.assign_coords(time=("time", np.asarray(run.times), {"units": "flow time"}))


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
