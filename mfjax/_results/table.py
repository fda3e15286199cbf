"""The results of a sweep, one labeled table."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from mfjax import status as codes
from mfjax._numerics.arrays import known, nothing_in
from mfjax._results.formats import write
from mfjax._results.labels import GridLabels, coordinate_names, grid_labels
from mfjax._results.run import (
    RECORDED,
    RESERVED,
    Run,
    as_attributes,
    axis_labels,
    described_grid,
    measure_arrays,
    named_arrays,
    placed,
)
from mfjax.measures import Grid, same_cells
from mfjax.status import SimulationError


class Table(eqx.Module):
    """The results of a sweep: `values` maps names to arrays whose leading axes are the sweep's axes.

    For a sweep of simulations there are the observables (..., S, ...) with `status` (..., S), `times`
    (..., S), and the final measure (`final_points`, `final_weights`, `final_mark_...`; narrower cells padded
    by NaN points of zero mass). `failed` lists the cells that stopped early. `attributes["layout"]` says how
    the cells of each bucket were laid out on the machine, and why; `attributes["first_cell"]` holds the
    settings of the first run (`mf.Run.settings`).
    """

    axes: dict[str, tuple]
    values: dict[str, Any]
    result_axes: dict[str, tuple[str, ...]] = eqx.field(static=True)
    attributes: dict[str, Any] = eqx.field(static=True, default_factory=dict)
    # Of the one grid that all cells end on, if there is one, and the names of stored coordinates.
    labels: GridLabels | None = eqx.field(static=True, default=None)
    coordinates: tuple[str, ...] = eqx.field(static=True, default=())

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise ValueError(f"no result {name!r}; there are {', '.join(sorted(self.values))}")
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    @property
    def failed(self) -> list[tuple[dict[str, Any], str]]:
        """(cell, cause) for every cell that stopped early."""
        if "status" not in self.values:
            return []
        status = np.asarray(self.values["status"])
        status = status.reshape(*[len(v) for v in self.axes.values()], -1).max(axis=-1)
        found = []
        for index in np.argwhere(status > codes.OK):
            cell = {name: values[i] for (name, values), i in zip(self.axes.items(), index, strict=True)}
            found.append((cell, codes.describe(int(status[tuple(index)]))))
        return found

    @property
    def certificates(self) -> dict[str, np.ndarray]:
        """The certificates of every run (`Run.certificates`), arrays with the sweep's axes.

        **Raises** `ValueError` if the results are no runs.
        """
        from mfjax.theory.certificates import REQUIRED, certify

        if not all(name in self.values for name in REQUIRED):
            raise ValueError("this table holds arrays: certificates are those of runs")
        shape = tuple(len(v) for v in self.axes.values())
        rows = [certify({n: self.values[n][i] for n in REQUIRED}) for i in np.ndindex(shape)]
        return {name: np.reshape([row[name] for row in rows], shape) for name in rows[0]}

    def to_xarray(self) -> Any:
        """The table as an `xarray.Dataset`, the sweep's axes as labeled dimensions.

        Where all cells end on one grid, masses and `final_density` have its axes.
        """
        import xarray as xr

        variables, measures = {}, {}
        for name, value in self.values.items():
            text = {"long_name": RECORDED[name]} if name in RECORDED else {}
            axes, value = (*self.axes, *self.result_axes[name]), np.asarray(value)
            if name.startswith("final_"):
                measures[name] = (axes, value)
            else:
                variables[name] = (axes, value, text)
        variables |= placed(measures, self.labels, self.values)
        coordinates: dict[str, Any] = {name: _labels(values) for name, values in self.axes.items()}
        if self.coordinates:
            coordinates["coordinate"] = list(self.coordinates)
        if self.labels is not None:
            coordinates |= self.labels.coordinates
        attributes = {"kind": "table", "axes": list(self.axes), **self.attributes}
        return xr.Dataset(variables, coordinates, as_attributes(attributes))

    def save(self, path: str | Path) -> Path:
        """Write the table as a file, by its ending: `.nc`, `.mat` or `.csv`, as those of `mf.Run.save`."""
        return write(self.to_xarray(), path)


def is_numeric(values: tuple) -> bool:
    """Whether all values of an axis are numbers."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _labels(values: tuple) -> list:
    """Coordinates that a file can hold: numbers, or text."""
    plain = is_numeric(values) or all(isinstance(v, bool) for v in values)
    return list(values) if plain else [v if isinstance(v, str) else str(v) for v in values]


class _Column(NamedTuple):
    """A result of one cell, the labels of its axes, and what fills up narrower cells, if they may be."""

    value: Any
    labels: tuple[str, ...]
    fill: float | None = None


def tabulate(axes: dict[str, tuple], cells: dict[tuple, Any], attributes: dict[str, Any]) -> Table:
    """The table of the results of all cells, given by their index along each axis.

    **Raises** `ValueError` if names or shapes differ between cells, or an axis has the name of a result.
    """
    shape = tuple(len(v) for v in axes.values())
    rows = {index: _row(result) for index, result in cells.items()}
    first = rows[(0,) * len(shape)]
    for index, row in rows.items():
        if row.keys() != first.keys():
            name = sorted(row.keys() ^ first.keys())[0]
            raise ValueError(
                f"cell {index} and the first do not both have a result {name!r}; every cell must return the "
                "same names"
            )
    values, labels = {}, {}
    for name, (_, names, fill) in first.items():
        if name in axes:
            raise ValueError(f"{name!r} names both an axis and a result: rename the axis")
        columns = {index: np.asarray(row[name].value) for index, row in rows.items()}
        widest = None if fill is None else max(a.shape[0] for a in columns.values())
        stacked = None
        for index, value in columns.items():
            if widest is not None and value.shape[0] < widest:
                missing = [(0, widest - len(value))] + [(0, 0)] * (value.ndim - 1)
                value = np.pad(value, missing, constant_values=known(fill))
            if stacked is None:
                stacked = np.empty(shape + value.shape, value.dtype)
            if value.shape != stacked.shape[len(shape) :]:
                raise ValueError(
                    f"the result {name!r} has shape {value.shape} in cell {index} and "
                    f"{stacked.shape[len(shape) :]} in the first; every cell must return the same shapes"
                )
            stacked[index] = value
        values[name], labels[name] = stacked, names
    return Table(axes, values, labels, *_described(axes, list(cells.values()), attributes, values))


def _described(axes, results: list[Any], attributes, taken) -> tuple[dict[str, Any], Any, tuple[str, ...]]:
    """(attributes, labels of the grid that all cells end on, names of coordinates) of a sweep of runs."""
    first = results[0]
    if not isinstance(first, Run):
        return attributes, None, ()
    mu, labels = first.final, None
    if isinstance(mu, Grid) and all(same_cells(mu, run.final) for run in results):
        labels = grid_labels(mu, first.domain, {*axes, *taken, *RESERVED})
    attributes = attributes | {"first_cell": first.settings} | described_grid(mu, labels)
    return attributes, labels, tuple(coordinate_names(first.domain, mu.points.shape[-1]))


def _row(result: Any) -> dict[str, _Column]:
    """The named results of one cell."""
    if not isinstance(result, Run):
        return array_row(result)
    row = {"times": _Column(result.times, ("save",))}
    arrays = named_arrays(result.observables)
    for name, leaf in arrays.items():
        row[name] = _Column(leaf, ("save", *axis_labels(name, np.ndim(leaf) - 1, arrays)))
    for name, value, names in measure_arrays(result.final):
        number = name != "weights" and np.issubdtype(np.asarray(value).dtype, np.inexact)
        row[f"final_{name}"] = _Column(value, names, np.nan if number else 0)
    return row


def array_row(result: Any) -> dict[str, _Column]:
    """The named arrays of a result that is no run."""
    if (name := nothing_in(result)) is not None:
        raise ValueError(f"fn must return arrays or a Simulation, got None as {name!r}")
    leaves = jax.tree_util.tree_flatten_with_path(result)[0]
    if not leaves:
        raise ValueError("fn must return arrays or a Simulation, got nothing")
    arrays: dict[str, Any] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="_") or "value"
        if name in arrays:
            raise ValueError(f"two results of fn would be called {name!r}; rename one")
        arrays[name] = leaf
    return {name: _Column(a, axis_labels(name, np.ndim(a), arrays)) for name, a in arrays.items()}


Causes = Mapping[tuple[int, ...], str]


def report(table: Table, throw: bool, rises: Causes, undefined: Causes) -> None:
    """Warn, or raise, if a cell stopped early; warn of energies that rose, and observables that are NaN."""
    total = int(np.prod([len(v) for v in table.axes.values()]))
    label = lambda cell: ", ".join(f"{name} = {value}" for name, value in cell.items())
    for causes, what, remedy in (
        (rises, "the energy rose", f": {codes.RISE_REMEDY}"),
        (undefined, "an observable is not defined", ""),
    ):
        if causes:
            index, cause = next(iter(causes.items()))
            cell = {name: values[i] for (name, values), i in zip(table.axes.items(), index, strict=True)}
            message = (
                f"in {len(causes)} of {total} cells {what}; in the first, {label(cell)}, {cause}{remedy}"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)
    failed = table.failed
    if not failed:
        return
    cell, cause = failed[0]
    message = f"{len(failed)} of {total} cells stopped early; the first, {label(cell)}: {cause}"
    if throw:
        raise SimulationError(message, table)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
