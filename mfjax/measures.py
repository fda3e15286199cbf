"""Finite measures: `Particles`, whose points move, and `Grid`, whose weights move.

Both offer `points` (K, d) and `weights` (K,), so an energy never asks which one it was given.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Key

from mfjax._numerics.arrays import as_floats, count, finite, inner, is_traced, kind, scalar
from mfjax.domains import Domain, Metric, require_domain
from mfjax.domains.cells import volume_of

__all__ = ["Grid", "Marks", "Measure", "Particles", "Tangent", "padded_weights"]

Marks = Mapping[str, Float[Array, "K ..."]]


class Tangent(eqx.Module):
    """A velocity of a state; `None` where nothing moves.

    Of points (K, d); of weights (K,); `growth` (K,), the relative rate of weights, along which they move by
    the factor exp(time growth) and stay positive; of marks; of `fields`, which belong to the state alone; of
    its `time`, one, where the flow depends on it.
    """

    points: Float[Array, "K d"] | None = None
    weights: Float[Array, " K"] | None = None
    growth: Float[Array, " K"] | None = None
    marks: Marks | None = None
    fields: Mapping[str, Float[Array, "..."]] | None = None
    time: Float[Array, ""] | None = None


class Measure(eqx.Module):
    """A finite measure with finitely many points, each with a mass.

    A measure sum_i weights_i delta(points_i); weights are masses, one for a probability measure.
    """

    points: eqx.AbstractVar[Float[Array, "K d"]]
    weights: eqx.AbstractVar[Float[Array, " K"]]
    marks: eqx.AbstractVar[Marks]

    @property
    def size(self) -> int:
        """Number of particles or cells, padding included."""
        return self.points.shape[-2]

    @property
    def dtype(self):
        return self.points.dtype

    @property
    def mass(self) -> Float[Array, ""]:
        """Total mass."""
        return jnp.sum(self.weights)

    def integrate(self, values: Inexact[Array, "K *rest"]) -> Inexact[Array, "*rest"]:
        """sum_i weights_i values_i, of values given at the support."""
        return inner(self.weights, values)

    def with_marks(self, **marks: Float[Array, "K ..."]) -> "Measure":
        """The same measure with marks added or replaced."""
        return eqx.tree_at(lambda mu: mu.marks, self, {**self.marks, **marks})

    @abstractmethod
    def move(self, domain: Domain, tangent: Tangent, time: Any, noise: Tangent | None = None) -> "Measure":
        """The measure after `time` along `tangent`."""

    def _moved(self, tangent: Tangent, time) -> tuple[Array, Marks]:
        """The weights and marks after `time` along `tangent`."""
        weights, marks = self.weights, dict(self.marks)
        if tangent.weights is not None:
            weights = weights + time * tangent.weights
        if tangent.growth is not None:
            exponent = time * tangent.growth
            # Nothing grows from nothing, not even by an infinite factor: 0 * inf would be NaN.
            bounded = exponent < float(np.log(float(jnp.finfo(weights.dtype).max)))
            weights = weights * jnp.exp(jnp.where((weights == 0) & ~bounded, 0, exponent))
        for name, rate in (tangent.marks or {}).items():
            marks[name] = marks[name] + time * rate
        return weights, marks


def _checked_marks(marks: Mapping | None, size: int, dtype) -> dict[str, Array]:
    if marks is not None and not isinstance(marks, Mapping):
        raise ValueError(f'marks must map names to arrays, {{"u": values}}, got {kind(marks)}')
    checked = {}
    for name, value in (marks or {}).items():
        value = as_floats(value, f"mark {name!r}").astype(dtype)
        if value.ndim == 0 or value.shape[0] != size:
            raise ValueError(f"mark {name!r} must have leading axis {size}, got shape {value.shape}")
        checked[name] = finite(value, f"mark {name!r}")
    return checked


def _checked_weights(weights, size: int, dtype) -> Array:
    weights = as_floats(weights, "weights").astype(dtype)
    if weights.shape != (size,):
        raise ValueError(f"weights must have shape ({size},), got {weights.shape}")
    finite(weights, "weights")
    if not is_traced(weights):
        smallest = float(np.min(np.asarray(weights)))
        if smallest < 0:
            raise ValueError(
                f"weights must be non-negative, got {smallest:g}; a signed measure is two species, on "
                "domains.Signed"
            )
        if not np.any(np.asarray(weights)):
            raise ValueError("weights must have a positive sum, got zero mass everywhere")
    return weights


def _precision(dtype):
    """**Raises** `ValueError` for a dtype in which nothing runs."""
    if jnp.dtype(dtype) not in (jnp.dtype("float32"), jnp.dtype("float64")):
        raise ValueError(f"dtype must be float32 or float64, got {jnp.dtype(dtype)}")
    return dtype


class Particles(Measure):
    """Particles at `points` (M, d) with masses `weights` (M,), uniform of total mass one unless given.

    `marks` are further attributes of each particle (an outer weight `u`, a height `H`, a sign), a
    mapping from names to arrays with leading axis M. A particle of zero mass is padding: it moves
    with the flow and changes nothing.

    **Raises** `ValueError` for empty or non-finite points, wrong shapes, and negative weights.

    >>> import jax.numpy as jnp
    >>> mu = Particles(jnp.array([[0.0], [1.0]]))
    >>> float(mu.mass), float(mu.integrate(mu.points[:, 0]))
    (1.0, 0.5)
    """

    points: Float[Array, "K d"]
    weights: Float[Array, " K"]
    marks: Marks

    def __init__(self, points, weights=None, marks: Mapping | None = None):
        points = as_floats(points, "points")
        if points.ndim != 2 or 0 in points.shape:
            raise ValueError(f"points must have shape (M, d) with M, d >= 1, got {points.shape}")
        self.points = finite(points, "points")
        size = points.shape[0]
        if weights is None:
            weights = jnp.full((size,), 1 / size, points.dtype)
        self.weights = _checked_weights(weights, size, points.dtype)
        self.marks = _checked_marks(marks, size, points.dtype)

    @staticmethod
    def sample(
        domain: Domain,
        key: Key[Array, ""],
        width,
        *,
        capacity: int | None = None,
        dtype=None,
    ) -> "Particles":
        """`width` uniform points in `capacity` slots; the slots beyond `width` carry zero mass.

        `width` may be a traced number when `capacity` is given: a sweep over widths then shares one
        compiled program. Point `i` depends on `(key, i)` only.
        """
        require_domain(domain)
        if capacity is None:
            capacity = count(width, "width")
        capacity = count(capacity, "capacity")
        if not is_traced(width) and not (1 <= width <= capacity and int(width) == width):
            raise ValueError(f"width must be a whole number between 1 and capacity = {capacity}, got {width}")
        dtype = jnp.result_type(float) if dtype is None else dtype
        points = domain.sample(key, capacity, dtype)
        return Particles(points, padded_weights(width, capacity, dtype))

    def move(self, domain: Domain, tangent: Tangent, time, noise: Tangent | None = None) -> "Particles":
        """The particles after `time` along `tangent`, retracted to the domain.

        `noise` is an increment of points and marks.
        """
        points, (weights, moved) = self.points, self._moved(tangent, time)
        marks = dict(moved)
        for name, increment in ({} if noise is None else noise.marks or {}).items():
            marks[name] = marks[name] + increment
        if tangent.points is not None:
            if noise is None or noise.points is None:
                points = jax.vmap(domain.retract)(points, time * tangent.points)
            else:
                points = jax.vmap(domain.diffuse)(points, time * tangent.points + noise.points)
        where = lambda mu: (mu.points, mu.weights, mu.marks)
        return eqx.tree_at(where, self, (points, weights, marks))


def padded_weights(width, capacity: int, dtype=None) -> Float[Array, " capacity"]:
    """Masses 1/width in the first `width` of `capacity` slots and zero in the others.

    >>> padded_weights(2, 4).tolist()
    [0.5, 0.5, 0.0, 0.0]
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    width = jnp.asarray(width, dtype)
    return jnp.where(jnp.arange(capacity) < width, 1 / width, 0).astype(dtype)


class Grid(Measure):
    """Masses `weights` (K,) in the cells of a tensor grid with centers `points` (K, d).

    The axes of a grid in several dimensions are flattened in C order; `shape` holds the cells per
    axis, `spacing` (dim,) their side lengths (arc length on the circle), `periodic` the topology. Nothing
    flows along the axes numbered in `frozen` (`domains.Frozen`; the first one, if it numbers the species of
    `domains.Signed`), and mass diffuses along none in `noiseless` (`domains.Noiseless`). On curvilinear
    coordinates (`Sphere(2)`, `Zonal`) cells differ: `spacing` holds the steps of the coordinates, `metric`
    the volumes, faces and distances. `marks` are further values of each cell (a height `H`), a mapping from
    names to arrays (K, ...).

    `Grid(domain, n, weights)`: `n` >= 4 cells per axis, along a frozen one >= 1, one number or one for each,
    of a sphere, a torus, an interval, a box, or a product of these; K is their product. `weights` are masses,
    not densities, in proportion to volume and of total mass one unless given; from a density by
    `Grid.from_density`. Good values: 8 cells or more across the finest feature; memory is O(n^dim), which is
    for dim <= 3.

    **Raises** `ValueError` for domains without a grid, n < 4, wrong shapes, negative or non-finite weights,
    and cells whose volumes `dtype` cannot hold.

    >>> from mfjax.domains import Interval
    >>> grid = Grid(Interval(0.0, 2.0), 4, [0.1, 0.4, 0.4, 0.1])
    >>> grid.points[:, 0].tolist(), float(grid.volume), grid.density.round(2).tolist()
    ([0.25, 0.75, 1.25, 1.75], 0.5, [0.2..., 0.8..., 0.8..., 0.2...])
    """

    points: Float[Array, "K d"]
    weights: Float[Array, " K"]
    marks: Marks
    spacing: Float[Array, " dim"]
    metric: Metric | None
    shape: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)
    frozen: tuple[int, ...] = eqx.field(static=True)
    noiseless: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, domain: Domain, n, weights=None, *, marks: Mapping | None = None, dtype=None):
        require_domain(domain)
        cells = domain.cells(n)
        moving = [count for axis, count in enumerate(cells.shape) if axis not in cells.frozen]
        if min(moving, default=4) < 4:
            raise ValueError(f"n must be at least 4, got {min(moving)}, along an axis on which mass moves")
        dtype = jnp.result_type(float) if dtype is None else _precision(dtype)
        self.points = cells.points.astype(dtype)
        self.spacing = cells.spacing.astype(dtype)
        self.metric = jax.tree.map(lambda sizes: sizes.astype(dtype), cells.metric)
        self.shape, self.periodic = cells.shape, cells.periodic
        self.frozen, self.noiseless = cells.frozen, cells.noiseless
        size = int(np.prod(cells.shape))
        if cells.metric is not None and not is_traced(cells.metric):
            least = float(np.min(np.asarray(cells.metric.volume)))
            if not least > float(jnp.finfo(dtype).tiny):
                raise ValueError(
                    f"{jnp.dtype(dtype)} cannot hold the volume {least:.1e} of a cell "
                    f"of {domain!r} at n = {n}: take fewer cells, or float64"
                )
        if weights is None:
            weights = jnp.full((size,), 1 / size, dtype) * self.relative_volume
        self.weights = _checked_weights(weights, size, dtype)
        self.marks = _checked_marks(marks, size, self.points.dtype)

    @staticmethod
    def uniform(domain: Domain, n, *, dtype=None) -> "Grid":
        """The uniform probability measure on `n` cells per axis: masses in proportion to volumes.

        >>> from mfjax.domains import Torus
        >>> Grid.uniform(Torus(1), 4).weights.tolist()
        [0.25, 0.25, 0.25, 0.25]
        """
        return Grid(domain, n, dtype=dtype)

    @staticmethod
    def from_density(
        domain: Domain,
        n,
        density: Callable[[Array], Array] | Array | np.ndarray,
        *,
        mass: float | None = 1.0,
        dtype=None,
    ) -> "Grid":
        """Masses of a density of one point (with respect to volume) by the midpoint rule, or of its values.

        Measured values come as an array of one number a cell, of shape (K,) or that of the cells.

        The result is scaled to total `mass` > 0; `mass=None` keeps the midpoint sum as it is.

        **Raises** `ValueError` as `Grid` does, for a mass that is not positive, and values of another shape.
        """
        grid = Grid(domain, n, dtype=dtype)
        if callable(density):
            values = jax.vmap(density)(grid.points)
        else:
            values = as_floats(density, "density")
            if values.shape not in ((grid.size,), grid.shape):
                raise ValueError(
                    f"density must be a function of one point, or its values in the {grid.shape} cells, got "
                    f"an array of shape {values.shape}: interpolate it to Grid(domain, n).points"
                )
            values = values.reshape(grid.size)
        if values.shape != (grid.size,):
            raise ValueError(f"density must return one number per point, got shape {values.shape[1:]}")
        weights = _checked_weights(values.astype(grid.dtype) * grid.volume, grid.size, grid.dtype)
        if mass is not None:
            total = scalar(mass, "mass", above=0).astype(grid.dtype)
            weights = weights * (total / jnp.sum(weights))
        return grid.with_weights(weights)

    @property
    def volume(self) -> Float[Array, "*K"]:
        """The volume of a cell, one number where all have the same, else (K,)."""
        return volume_of(self.spacing, self.metric, self.shape)

    @property
    def relative_volume(self) -> Float[Array, "*K"]:
        """The volume of each cell over that of the mean one; the number one where all have the same."""
        if self.metric is None:
            return jnp.ones((), self.dtype)
        return self.volume / jnp.mean(self.volume)

    def integral(self, values: Float[Array, " K"]) -> Float[Array, ""]:
        """The integral over volume of a function given in the cells."""
        return self.volume * jnp.sum(values) if self.metric is None else inner(self.volume, values)

    @property
    def density(self) -> Float[Array, " K"]:
        """Mass per volume in each cell."""
        return self.weights / self.volume

    def with_weights(self, weights: Float[Array | np.ndarray, "... K"]) -> "Grid":
        """The same cells carrying other masses."""
        return eqx.tree_at(lambda mu: mu.weights, self, weights)

    def move(self, domain: Domain, tangent: Tangent, time, noise: Tangent | None = None) -> "Grid":
        """The masses and marks after `time` along `tangent`."""
        return eqx.tree_at(lambda mu: (mu.weights, mu.marks), self, self._moved(tangent, time))


def same_cells(a: Any, b: Any, rtol: float = 0.0) -> bool:
    """Whether two grids have the same cells, whatever moves on them, as far as their numbers are known.

    Spacing, volumes and one center decide.

    >>> from mfjax.domains import Interval, Torus
    >>> unit, half = (Grid.uniform(Interval(0.0, length), 4) for length in (1.0, 0.5))
    >>> same_cells(unit, unit), same_cells(unit, half), same_cells(unit, Grid.uniform(Torus(1), 4))
    (True, False, False)
    """
    kind = lambda grid: (grid.shape, grid.periodic, grid.points.shape)
    if not isinstance(a, Grid) or not isinstance(b, Grid) or kind(a) != kind(b):
        return False
    cells = lambda grid: (grid.spacing, grid.metric, grid.points)
    if is_traced((cells(a), cells(b))):
        return True
    atol = rtol * float(np.min(np.asarray(a.spacing)))
    with jax.ensure_compile_time_eval():
        pairs = ((a.spacing, b.spacing), (a.volume, b.volume), (a.points[0], b.points[0]))
        return all(np.allclose(np.asarray(x), np.asarray(y), rtol, atol) for x, y in pairs)


def require_same_cells(own: Grid, mu: Grid, name: str) -> None:
    """**Raises** `ValueError` unless `own`, called `name` in the message, has the cells of `mu`."""
    if own.shape != mu.shape:
        raise ValueError(f"the {name} lives on {own.shape} cells and the measure on {mu.shape}; use one grid")
    # That of a target may be of another precision.
    if not same_cells(own, mu, rtol=1e-5):
        raise ValueError(
            f"the {name} lives on {_described(own)}, and the measure on {_described(mu)}; use one grid"
        )


def _described(grid: Grid) -> str:
    numbers = lambda array: [round(float(n), 6) for n in np.asarray(array)]
    closed, first = "closed" if any(grid.periodic) else "open", np.asarray(grid.points)[0]
    return f"{closed} axes with cells of size {numbers(grid.spacing)} from {numbers(first)} on"
