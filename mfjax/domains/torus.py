"""The flat torus."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import count, scalar
from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain
from mfjax.domains.cells import Cells, axes_of, tensor_centers


class Torus(Domain):
    """The flat torus (R / period Z)^dim: a box whose opposite faces are joined.

    Points are stored in [0, period)^dim.

    `embed` is the chordal embedding into R^(2 dim), in which the distance is negative definite; the
    wrapped Euclidean distance is not.

    >>> import jax.numpy as jnp
    >>> round(float(Torus(1).displacement(jnp.array([0.9]), jnp.array([0.1]))[0]), 3)
    -0.2
    """

    dim: int = eqx.field(static=True)
    period: Float[Array, ""]

    def __init__(self, dim: int, period: ScalarLike = 1.0):
        self.dim = count(dim, "dim")
        self.period = scalar(period, "period", above=0)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (Axis(0.0, self.period, closed=True),) * self.dim

    @property
    def isometric(self) -> bool:
        return True

    @property
    def product_of_circles(self) -> bool:
        return True

    def _wrap(self, x):
        period = self.period.astype(x.dtype)
        # The exact remainder: x - period * floor(x / period) rounds to values below zero.
        wrapped = jnp.mod(x, period)
        # Rounding can still return exactly `period` for tiny negative x.
        return jnp.where(wrapped >= period, wrapped - period, wrapped)

    def sample_point(self, key, dtype=float):
        return self.period.astype(dtype) * jr.uniform(key, (self.dim,), dtype)

    def contains(self, x):
        return jnp.all((x >= 0) & (x < self.period.astype(x.dtype)))

    def displacement(self, x, y):
        period = self.period.astype(x.dtype)
        return (x - y) - period * jnp.round((x - y) / period)

    def coordinates(self, x):
        return self._wrap(x)

    def point(self, q):
        return self._wrap(q)

    def retract(self, x, v):
        return self._wrap(x + v)

    def embed(self, x):
        radius = self.period.astype(x.dtype) / (2 * jnp.pi)
        return radius * jnp.concatenate([jnp.cos(x / radius), jnp.sin(x / radius)])

    def chord(self, x, y):
        # From the difference of coordinates, which is exactly zero for equal points. A difference of two
        # embeddings need not be (a compiler may round them differently), and the derivative of its length
        # is then a unit vector of noise.
        diameter = self.period.astype(x.dtype) / jnp.pi
        return diameter * jnp.sin((x - y) / diameter)

    def cells(self, n):
        shape = axes_of(n, self.dim)
        upper = jnp.broadcast_to(self.period, (self.dim,)).astype(jnp.result_type(float))
        points, spacing = tensor_centers(jnp.zeros_like(upper), upper, shape)
        return Cells(points, spacing, shape, (True,) * self.dim)
