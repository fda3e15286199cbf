"""Products of domains: tuples of points, one behind the other."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from mfjax._numerics.arrays import safe_norm
from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, require_domain
from mfjax.domains.cells import Cells, Metric, axes_of


class Factored(Domain):
    """A domain that is the product of its `factors`, each of which answers for its part of a point."""

    factors: eqx.AbstractVar[tuple[Domain, ...]]

    def _parts(self, x: Array) -> list[Array]:
        """The part of a point, or of a vector, that belongs to each factor."""
        return _split(x, [factor.ambient for factor in self.factors])

    def _joined(self, ask: Callable[..., Array], *points: Array) -> Array:
        """What each factor makes of its parts, one behind the other."""
        parts = zip(*map(self._parts, points), strict=True)
        return jnp.concatenate([ask(f, *part) for f, part in zip(self.factors, parts, strict=True)])

    @property
    def dim(self) -> int:
        return sum(factor.dim for factor in self.factors)

    @property
    def ambient(self) -> int:
        return sum(factor.ambient for factor in self.factors)

    @property
    def tangent_dim(self) -> int:
        return sum(factor.tangent_dim for factor in self.factors)

    def sample_point(self, key, dtype: Any = float):
        keys = jr.split(key, len(self.factors))
        drawn = [factor.sample_point(own, dtype) for factor, own in zip(self.factors, keys, strict=True)]
        return jnp.concatenate(drawn)

    def contains(self, x):
        inside = [jnp.all(f.contains(part)) for f, part in zip(self.factors, self._parts(x), strict=True)]
        return jnp.all(jnp.stack(inside))

    def validate(self, points, name="points"):
        super().validate(points, name)
        ends = np.cumsum([factor.ambient for factor in self.factors])
        for factor, end in zip(self.factors, ends, strict=True):
            factor.validate(points[:, end - factor.ambient : end], name)

    def displacement(self, x, y):
        return self._joined(lambda factor, x, y: factor.displacement(x, y), x, y)

    def distance(self, x, y):
        parts = zip(self.factors, self._parts(x), self._parts(y), strict=True)
        return safe_norm(jnp.stack([factor.distance(p, q) for factor, p, q in parts]))

    def project(self, x, v):
        return self._joined(lambda factor, x, v: factor.project(x, v), x, v)

    def velocity(self, x, v):
        return self._joined(lambda factor, x, v: factor.velocity(x, v), x, v)

    def noise(self, x, v):
        return self._joined(lambda factor, x, v: factor.noise(x, v), x, v)

    @property
    def noiseless(self) -> bool:
        return any(factor.noiseless for factor in self.factors)

    @property
    def connected(self) -> bool:
        return all(factor.connected for factor in self.factors)

    def tangent_basis(self, x):
        blocks, above = [], 0
        for factor, part in zip(self.factors, self._parts(x), strict=True):
            below = self.ambient - above - factor.ambient
            blocks.append(jnp.pad(factor.tangent_basis(part), ((above, below), (0, 0))))
            above += factor.ambient
        return jnp.concatenate(blocks, axis=1)

    def retract(self, x, v):
        return self._joined(lambda factor, x, v: factor.retract(x, v), x, v)

    def diffuse(self, x, v):
        return self._joined(lambda factor, x, v: factor.diffuse(x, v), x, v)

    def embed(self, x):
        return self._joined(lambda factor, x: factor.embed(x), x)

    def chord(self, x, y):
        return self._joined(lambda factor, x, y: factor.chord(x, y), x, y)

    @property
    def flat(self) -> bool:
        return all(factor.flat for factor in self.factors)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for factor in self.factors for axis in factor.axes)

    @property
    def walls(self) -> tuple[bool, ...]:
        return tuple(wall for factor in self.factors for wall in factor.walls)

    def coordinates(self, x):
        return self._joined(lambda factor, x: factor.coordinates(x), x)

    def _of_coordinates(self, ask: Callable[[Domain, Array], Array], q: Array) -> Array:
        parts = _split(q, [factor.dim for factor in self.factors])
        return jnp.concatenate([ask(factor, part) for factor, part in zip(self.factors, parts, strict=True)])

    def point(self, q):
        return self._of_coordinates(lambda factor, q: factor.point(q), q)

    def drawn(self, q):
        return self._of_coordinates(lambda factor, q: factor.drawn(q), q)

    @property
    def isometric(self) -> bool:
        return all(factor.isometric for factor in self.factors)

    @property
    def orbits(self) -> bool:
        return any(factor.orbits for factor in self.factors)

    @property
    def volume_powers(self) -> tuple[int, ...]:
        return tuple(power for factor in self.factors for power in factor.volume_powers)

    @property
    def product_of_circles(self) -> bool:
        return all(factor.product_of_circles for factor in self.factors)

    @property
    def log_sobolev(self):
        # The constants of products are the least of those of their factors.
        return jnp.min(jnp.stack([factor.log_sobolev for factor in self.factors]))

    def gaussian(self, x, y, width):
        parts = zip(self.factors, self._parts(x), self._parts(y), strict=True)
        return jnp.prod(jnp.stack([factor.gaussian(p, q, width) for factor, p, q in parts]))

    def harmonics(self, x, degree):
        one = len(self.factors) == 1
        return self.factors[0].harmonics(x, degree) if one else super().harmonics(x, degree)

    def cells(self, n):
        counts = [n] * len(self.factors)
        if isinstance(n, (tuple, list)):
            sizes, begin = axes_of(n, self.dim), 0
            for i, factor in enumerate(self.factors):
                counts[i] = sizes[begin : begin + factor.dim]
                begin += factor.dim
        return reduce(
            _product_cells, [factor.cells(k) for factor, k in zip(self.factors, counts, strict=True)]
        )


class Product(Factored):
    """The product of domains: a place in each of them, with their coordinates one behind the other.

    - `factors`: any domains, `Product(Sphere(1), Interval(0.0, 1.0))`, users' own included.

    Each factor answers for its part: moves, walls, noise, coordinates, cells. Lengths are those of right
    angles, sqrt(sum_k d_k^2), Gaussians and volumes are products, and cells those of all factors (`n` is one
    number for each, or one per axis), curvilinear where one of them is. `Product(Torus(1), Torus(1))` is
    `Torus(2)`, and likewise for boxes. A factor that keeps its coordinates is `Frozen`, one that noise does
    not reach `Noiseless`. For w omega, a weight and a feature on the sphere, as `features.Weighted` has them:
    `Product(Euclidean(1), Sphere(1))`.

    **Raises** `ValueError` without factors, for what is no domain, and for a grid where a factor has none,
    or has copies (`Signed`), which belong around the product.

    >>> import mfjax as mf
    >>> cylinder = Product(mf.domains.Sphere(1), mf.domains.Interval(0.0, 2.0))
    >>> cylinder
    Product(Sphere(dim=1), Interval(lower=[0.0], upper=[2.0]))
    >>> cylinder.dim, cylinder.ambient, cylinder.retract(jnp.array([1.0, 0, 1.5]), jnp.ones(3)).tolist()
    (2, 3, [0.894..., 0.447..., 2.0])
    >>> cells = cylinder.cells((8, 4))
    >>> cells.shape, cells.periodic, round(float(32 * cells.volume / jnp.pi), 5)
    ((8, 4), (True, False), 4.0)
    """

    factors: tuple[Domain, ...]

    def __init__(self, *factors: Domain):
        if not factors:
            raise ValueError("a Product needs factors: Product(Sphere(1), Interval(0.0, 1.0))")
        for factor in factors:
            require_domain(factor, "a factor of a Product")
        self.factors = factors

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.factors))})"

    def cells(self, n):
        cells = super().cells(n)
        if len(cells.shape) != self.dim:
            raise ValueError(
                f"{self!r} has no grid, for a factor has copies: make those of the product, as in "
                "Signed(Product(...))"
            )
        return cells


def _split(values: Array, sizes: list[int]) -> list[Array]:
    return jnp.split(values, np.cumsum(sizes)[:-1])


def _product_cells(first: Cells, second: Cells) -> Cells:
    """The cells of a product of two domains, those of the second one running fastest."""
    begin = len(first.shape)
    behind = lambda axes: tuple(begin + axis for axis in axes)
    here, there = len(first.points), len(second.points)
    return Cells(
        jnp.concatenate([jnp.repeat(first.points, there, 0), jnp.tile(second.points, (here, 1))], axis=1),
        jnp.concatenate([first.spacing, second.spacing]),
        first.shape + second.shape,
        first.periodic + second.periodic,
        first.frozen + behind(second.frozen),
        _product_metric(first, second),
        first.noiseless + behind(second.noiseless),
    )


def _product_metric(first: Cells, second: Cells) -> Metric | None:
    """Volumes are products, a face of one factor has the volumes of the other behind it."""
    if first.metric is None and second.metric is None:
        return None
    a, b = _metric_of(first), _metric_of(second)
    before = lambda sizes: sizes.reshape(*sizes.shape, *(1,) * len(second.shape))
    volume = before(a.volume)
    return Metric(
        volume * b.volume,
        (*(before(area) * b.volume for area in a.areas), *(volume * area for area in b.areas)),
        (*map(before, a.distances), *b.distances),
    )


def _metric_of(cells: Cells) -> Metric:
    """The metric of cells, of boxes too."""
    if cells.metric is not None:
        return cells.metric
    volume = jnp.prod(cells.spacing).reshape((1,) * len(cells.shape))
    return Metric(volume, tuple(volume / step for step in cells.spacing), tuple(cells.spacing))
