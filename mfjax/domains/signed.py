"""Two copies of a domain, one for each sign of mass."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, require_domain
from mfjax.domains.cells import Cells
from mfjax.domains.product import Factored


class Signed(Factored):
    """Two copies {-1, +1} x `domain`, so that a signed measure is a measure: points (sign, x).

    The sign never moves. `features.SignedFeatures` and `kernels.SignedKernel` let an energy see sign times
    mass, and its potential at (s, x) is then s V(x). A grid has `n` cells per axis of each copy, first
    those of -1, with no flux between the copies. The coordinates of a point are those on its copy, and
    `point` is that on the positive one.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> pair = Signed(mf.domains.Torus(1))
    >>> pair.cells(4).points[3:5].tolist()
    [[-1.0, 0.875], [1.0, 0.125]]
    >>> pair.retract(jnp.array([-1.0, 0.75]), jnp.array([0.0, 0.5])).tolist()
    [-1.0, 0.25]
    """

    domain: Domain

    def __init__(self, domain: Domain):
        require_domain(domain)
        self.domain = domain

    @property
    def factors(self) -> tuple[Domain, ...]:
        return (_Signs(), self.domain)


class _Signs(Domain):
    """The two signs: isolated points, which have no coordinates."""

    dim: int = eqx.field(static=True, default=0)

    @property
    def ambient(self) -> int:
        return 1

    def sample_point(self, key, dtype=float):
        return jr.rademacher(key, (1,), dtype)

    def contains(self, x):
        return jnp.abs(x[0]) == 1

    def displacement(self, x, y):
        return jnp.where(x == y, jnp.zeros_like(x), jnp.inf)

    def distance(self, x, y):
        return jnp.where(x[0] == y[0], jnp.zeros((), x.dtype), jnp.inf)

    @property
    def connected(self) -> bool:
        return False

    def project(self, x, v):
        return jnp.zeros_like(v)

    def tangent_basis(self, x):
        return jnp.zeros((1, 0), x.dtype)

    def retract(self, x, v):
        return jnp.where(x < 0, -1.0, 1.0).astype(x.dtype)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return ()

    @property
    def flat(self) -> bool:
        return True

    @property
    def log_sobolev(self):
        return jnp.zeros(())

    def coordinates(self, x):
        return x[:0]

    def point(self, q):
        return jnp.ones((1,), q.dtype)

    def cells(self, n):
        signs = jnp.array([[-1.0], [1.0]])
        return Cells(signs, jnp.ones((1,), signs.dtype), (2,), (False,), frozen=(0,))
