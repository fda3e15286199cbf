"""The names, places and units that files give to the cells of a grid and the coordinates of points."""

from collections.abc import Collection, Container
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mfjax.domains import Axis, Domain
from mfjax.measures import Grid

# The unit of a coordinate whose axis names none.
LENGTH = "length"


class GridAxis(NamedTuple):
    """An axis of a grid: its name, the coordinate of each of its `size` cells, if known, and their unit."""

    name: str
    size: int
    values: tuple[float, ...] | None
    unit: str


class GridLabels(NamedTuple):
    """The axes of a grid, the volume of a cell, or those of all, in its shape, and the unit of a density."""

    axes: tuple[GridAxis, ...]
    volume: float | np.ndarray
    unit: str

    def laid_out(self, dims: tuple[str, ...], value: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """(labels, array) with the axis "cell" in the shape of the grid."""
        if "cell" not in dims:
            return dims, value
        i = dims.index("cell")
        sizes, names = (tuple(getattr(axis, what) for axis in self.axes) for what in ("size", "name"))
        shape = (*value.shape[:i], *sizes, *value.shape[i + 1 :])
        return (*dims[:i], *names, *dims[i + 1 :]), value.reshape(shape)

    def density(self, weights: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
        """The density of masses, with its attributes."""
        return weights / self.volume, {"units": self.unit, "long_name": "mass per volume of a cell"}

    @property
    def coordinates(self) -> dict[str, Any]:
        """The coordinates of the axes, for `xarray`."""
        return {a.name: (a.name, np.asarray(a.values), {"units": a.unit}) for a in self.axes if a.values}


def grid_labels(grid: Grid, domain: Domain | None, taken: Collection[str]) -> GridLabels:
    """The labels of a grid on a domain, if that is known: none of the names is `taken`."""
    free = len(grid.shape)
    if domain is not None and domain.dim <= free:
        free = domain.dim
        axes, named = (
            domain.axes,
            [_label(axis, i) for axis, i in zip(domain.axes, _numbers(free), strict=True)],
        )
    else:
        domain, axes, named = None, (Axis(),) * free, [(f"axis{i}", LENGTH) for i in _numbers(free)]
    copies = len(grid.shape) - free
    species = [f"species{number}" for number in _numbers(copies)]
    points = np.asarray(grid.points).reshape(*grid.shape, -1)
    found, units = [], []
    for i, size in enumerate(grid.shape):
        line = points[tuple(slice(None) if j == i else 0 for j in range(len(grid.shape)))]
        k = i - copies
        if k < 0:
            name, unit, values = species[i], "1", line[:, i]
        else:
            (name, unit), values = named[k], _coordinates(line, domain, axes[k], k)
            # Of an orbit one coordinate is stored, and its volume is that of the whole.
            units += [unit] * (1 if domain is None else domain.volume_powers[k])
        # What does not increase cannot be looked up.
        if values is not None and not np.all(np.diff(values) > 0):
            values = None
        places = None if values is None else tuple(values.tolist())
        name = free_name(name, {*taken, *(axis.name for axis in found)})
        found.append(GridAxis(name, size, places, unit))
    volume = np.asarray(grid.volume)
    volume = float(volume) if volume.ndim == 0 else volume.reshape(grid.shape)
    return GridLabels(tuple(found), volume, f"mass / {_product(units)}")


def coordinate_names(domain: Domain | None, number: int) -> list[str]:
    """Names of the `number` stored coordinates of a point.

    >>> import mfjax as mf
    >>> coordinate_names(mf.domains.Torus(2), 2), coordinate_names(mf.domains.Sphere(1), 2)
    (['x_0', 'x_1'], ['x_0', 'x_1'])
    """
    if domain is None or domain.ambient != domain.dim or domain.dim != number:
        return [f"x{i}" for i in _numbers(number)]
    names: list[str] = []
    for axis, i in zip(domain.axes, _numbers(number), strict=True):
        names.append(free_name(_label(axis, i)[0], names))
    return names


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, with underscores behind it where it is taken."""
    while name in taken:
        name += "_"
    return name


def _coordinates(line: np.ndarray, domain: Domain | None, axis: Axis, k: int) -> np.ndarray | None:
    """Coordinate `k` of points along it, increasing where the axis is closed."""
    if domain is None:
        return None
    try:
        values = np.asarray(jax.vmap(domain.coordinates)(jnp.asarray(line)))[:, k]
    except NotImplementedError:
        return None
    return values[0] + np.mod(values - values[0], float(axis.length)) if axis.closed else values


def _label(axis: Axis, number: str) -> tuple[str, str]:
    """(name, unit) of a coordinate."""
    if axis.label is None:
        return f"x{number}", LENGTH
    name, _, unit = axis.label.partition("[")
    return name.strip() or f"x{number}", unit.rstrip("] ") or LENGTH


def _numbers(count: int) -> list[str]:
    return [""] if count == 1 else [f"_{i}" for i in range(count)]


def _product(units: list[str]) -> str:
    """
    >>> _product(["rad"]), _product(["length", "length"]), _product(["rad", "length"])
    ('rad', 'length^2', '(rad length)')
    """
    powers = {unit: units.count(unit) for unit in units}
    text = " ".join(unit if power == 1 else f"{unit}^{power}" for unit, power in powers.items())
    return f"({text})" if len(powers) > 1 else text
