"""A domain on which nothing moves."""

import jax.numpy as jnp

from mfjax.domains.base import Domain
from mfjax.domains.wrapped import Wrapped


class Frozen(Wrapped):
    """A domain along which nothing moves: the factor of a product that particles keep.

    - `domain`: where the points are. It is asked for samples, coordinates, chords (so that kernels see the
      frozen coordinates, too), cells and figures.

    Mobility is zero: velocities and noise have no part along it, and no mass passes between cells. No path
    leads from one point to another, so that their distance is infinite, and so are displacements. In
    `Product(Frozen(Interval(0.0, 1.0)), Theta)` the particles of each depth s move among themselves, in an
    energy of all: `flows.Wasserstein` is then the flow of conditional optimal transport.

    **Raises** `ValueError` unless `domain` is a `Domain`.

    >>> import mfjax as mf
    >>> layers = mf.domains.Product(Frozen(mf.domains.Interval(0.0, 1.0)), mf.domains.Euclidean(1))
    >>> layers.velocity(jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])).tolist()
    [0.0, 1.0]
    >>> [float(layers.distance(jnp.array([0.5, 2.0]), jnp.array([s, 3.0]))) for s in (0.5, 0.6)]
    [1.0, inf]
    """

    def __init__(self, domain: Domain):
        super().__init__(domain)

    @property
    def tangent_dim(self) -> int:
        return 0

    def displacement(self, x, y):
        return jnp.where(x == y, jnp.zeros_like(x), jnp.inf)

    def distance(self, x, y):
        return jnp.where(jnp.all(x == y), jnp.zeros((), x.dtype), jnp.inf)

    def project(self, x, v):
        return jnp.zeros_like(v)

    def velocity(self, x, v):
        return jnp.zeros_like(v)

    def noise(self, x, v):
        return jnp.zeros_like(v)

    @property
    def noiseless(self) -> bool:
        return False

    @property
    def connected(self) -> bool:
        return False

    def tangent_basis(self, x):
        return jnp.zeros((self.ambient, 0), x.dtype)

    def retract(self, x, v):
        # Bit for bit: a frozen coordinate says which points are of one kind.
        return jnp.where(self.contains(x), x, self.domain.retract(x, jnp.zeros_like(v)))

    def diffuse(self, x, v):
        return self.retract(x, v)

    @property
    def walls(self) -> tuple[bool, ...]:
        return (False,) * self.ambient

    @property
    def log_sobolev(self):
        return jnp.zeros(())

    def cells(self, n):
        cells = self.domain.cells(n)
        return cells._replace(frozen=tuple(range(len(cells.shape))), noiseless=())
