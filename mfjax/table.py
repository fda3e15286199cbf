"""The results of a sweep, one labelled table."""

import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from mfjax import status as codes
from mfjax.io import write_dataset
from mfjax.run import RECORDED, Run, measure_arrays, named_leaves
from mfjax.status import SimulationError


class Table(eqx.Module):
    """The results of a sweep: `values` maps names to arrays whose leading axes are the sweep's axes.

    For a sweep of simulations there are the observables (..., S, ...) with `status` (..., S), `times`
    (..., S), and the final measure (`final_points`, `final_weights`, marks; narrower cells padded by NaN
    points of zero mass). `failed` lists the cells that stopped early.
    """

    axes: dict[str, tuple]
    values: dict[str, Any]
    result_axes: dict[str, tuple[str, ...]] = eqx.field(static=True)

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise ValueError(f"no result {name!r}; there are {', '.join(sorted(self.values))}")
        return self.values[name]

    @property
    def failed(self) -> list[tuple[dict[str, Any], str]]:
        """(cell, cause) for every cell that stopped early."""
        if "status" not in self.values:
            return []
        status = np.asarray(self.values["status"])
        status = status.reshape(*[len(v) for v in self.axes.values()], -1).max(axis=-1)
        found = []
        for index in np.argwhere(status != codes.OK):
            cell = {name: values[i] for (name, values), i in zip(self.axes.items(), index, strict=True)}
            found.append((cell, codes.describe(int(status[tuple(index)]))))
        return found

    def to_xarray(self) -> Any:
        """The table as an `xarray.Dataset`, the sweep's axes as labelled dimensions."""
        import xarray as xr

        variables = {}
        for name, value in self.values.items():
            text = {"long_name": RECORDED[name]} if name in RECORDED else {}
            variables[name] = ((*self.axes, *self.result_axes[name]), np.asarray(value), text)
        return xr.Dataset(variables, coords={name: _labels(values) for name, values in self.axes.items()})

    def save(self, path: str | Path) -> Path:
        """Write the table as one netCDF file."""
        return write_dataset(self.to_xarray(), path)


def is_numeric(values: tuple) -> bool:
    """Whether all values of an axis are numbers, which a sweep passes as traced scalars."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _labels(values: tuple) -> list:
    """Coordinates that a file can hold: numbers, or text."""
    plain = is_numeric(values) or all(isinstance(v, bool) for v in values)
    return list(values) if plain else [v if isinstance(v, str) else str(v) for v in values]


def tabulate(axes: dict[str, tuple], cells: dict[tuple, Any]) -> Table:
    """The table of the results of all cells, given by their index along each axis."""
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
    for name, (_, names) in first.items():
        if name in axes:
            raise ValueError(f"{name!r} names both an axis and a result: rename the axis")
        padded = name.startswith("final_")
        columns = {index: np.asarray(row[name][0]) for index, row in rows.items()}
        widest = max(a.shape[0] for a in columns.values()) if padded else None
        fill = 0.0 if name == "final_weights" else np.nan
        stacked = None
        for index, value in columns.items():
            if padded and value.shape[0] < widest:
                value = np.pad(
                    value, [(0, widest - len(value))] + [(0, 0)] * (value.ndim - 1), constant_values=fill
                )
            if stacked is None:
                stacked = np.empty(shape + value.shape, value.dtype)
            if value.shape != stacked.shape[len(shape) :]:
                raise ValueError(
                    f"the result {name!r} has shape {value.shape} in cell {index} and "
                    f"{stacked.shape[len(shape) :]} in the first; every cell must return the same shapes"
                )
            stacked[index] = value
        values[name], labels[name] = stacked, names
    return Table(axes, values, labels)


def _row(result: Any) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """name -> (array, labels of its axes) for the result of one cell."""
    if isinstance(result, Run):
        row = {"times": (result.times, ("save",))}
        for name, value in result.observables.items():
            for suffix, leaf in named_leaves(value):
                rest = tuple(f"{name}{suffix}_{i}" for i in range(np.ndim(leaf) - 1))
                row[name + suffix] = (leaf, ("save", *rest))
        for name, value, names in measure_arrays(result.final):
            row[f"final_{name}"] = (value, names)
        return row
    leaves = jax.tree_util.tree_flatten_with_path(result)[0]
    if not leaves:
        raise ValueError("fn must return arrays or a Simulation, got nothing")
    row = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="_") or "value"
        row[name] = (leaf, tuple(f"{name}_{i}" for i in range(np.ndim(leaf))))
    return row


def report(table: Table, throw: bool) -> None:
    """Warn, or raise, if a cell stopped early."""
    failed = table.failed
    if not failed:
        return
    total = int(np.prod([len(v) for v in table.axes.values()]))
    cell, cause = failed[0]
    where = ", ".join(f"{name} = {value}" for name, value in cell.items())
    message = f"{len(failed)} of {total} cells stopped early; the first, {where}: {cause}"
    if throw:
        raise SimulationError(message, table)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
