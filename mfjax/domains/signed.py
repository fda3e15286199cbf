"""Two copies of a domain, one for each sign of mass."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from mfjax._numerics.arrays import kind
from mfjax.domains.base import Axis, Cells, Domain, Metric


class Signed(Domain):
    """Two copies {-1, +1} x `domain`, so that a signed measure is a measure: points (sign, x).

    The sign never moves. `features.SignedFeatures` and `kernels.SignedKernel` let an energy see sign times
    mass, and its potential at (s, x) is then s V(x). A grid has `n` cells per axis of each copy, first
    those of -1, with no flux between the copies.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> pair = Signed(mf.domains.Torus(1))
    >>> pair.cells(4).points[3:5].tolist()
    [[-1.0, 0.875], [1.0, 0.125]]
    >>> pair.retract(jnp.array([-1.0, 0.75]), jnp.array([0.0, 0.5])).tolist()
    [-1.0, 0.25]
    """

    domain: Domain

    def __check_init__(self):
        if not isinstance(self.domain, Domain):
            raise ValueError(f"domain must be a Domain, got {kind(self.domain)}")

    def validate(self, points, name="points"):
        super().validate(points, name)
        self.domain.validate(points[:, 1:], name)

    @property
    def dim(self) -> int:
        return self.domain.dim

    @property
    def ambient(self) -> int:
        return self.domain.ambient + 1

    def sample_point(self, key, dtype=float):
        for_sign, for_point = jr.split(key)
        return _joined(jr.rademacher(for_sign, (), dtype), self.domain.sample_point(for_point, dtype))

    def contains(self, x):
        return (jnp.abs(x[0]) == 1) & self.domain.contains(x[1:])

    def displacement(self, x, y):
        return _joined(x[0] - y[0], self.domain.displacement(x[1:], y[1:]))

    def project(self, x, v):
        return _joined(jnp.zeros_like(v[0]), self.domain.project(x[1:], v[1:]))

    def velocity(self, x, v):
        return _joined(jnp.zeros_like(v[0]), self.domain.velocity(x[1:], v[1:]))

    def retract(self, x, v):
        return _joined(_nearest_sign(x[0] + v[0]), self.domain.retract(x[1:], v[1:]))

    def diffuse(self, x, v):
        return _joined(_nearest_sign(x[0] + v[0]), self.domain.diffuse(x[1:], v[1:]))

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.domain.axes

    @property
    def walls(self) -> tuple[bool, ...]:
        return (False, *self.domain.walls)

    @property
    def isometric(self) -> bool:
        return False

    @property
    def volume_dim(self) -> int:
        return self.domain.volume_dim

    def coordinates(self, x):
        """The coordinates of `x` on its copy; those of two copies are the same."""
        return self.domain.coordinates(x[1:])

    def point(self, q):
        """The point of coordinates `q` on the positive copy."""
        x = self.domain.point(q)
        return _joined(jnp.ones((), x.dtype), x)

    def drawn(self, q):
        return self.domain.drawn(q)

    def chord(self, x, y):
        return _joined(x[0] - y[0], self.domain.chord(x[1:], y[1:]))

    def embed(self, x):
        return _joined(x[0], self.domain.embed(x[1:]))

    @property
    def flat(self) -> bool:
        return self.domain.flat

    def cells(self, n):
        one = self.domain.cells(n)
        signs = jnp.repeat(jnp.array([-1.0, 1.0], one.points.dtype), len(one.points))
        points = jnp.concatenate([signs[:, None], jnp.tile(one.points, (2, 1))], axis=1)
        spacing = jnp.concatenate([jnp.ones_like(one.spacing[:1]), one.spacing])
        metric = one.metric
        if metric is not None:
            # Nothing flows between the copies: the sizes of faces between them do not matter.
            twice = jax.tree.map(lambda sizes: sizes[None] if sizes.ndim else sizes, metric)
            between = jnp.ones((), one.spacing.dtype)
            metric = Metric(twice.volume, (between, *twice.areas), (between, *twice.distances))
        return Cells(points, spacing, (2, *one.shape), (False, *one.periodic), one.frozen + 1, metric)


def _joined(sign: Array, x: Array) -> Array:
    return jnp.concatenate([sign[None], x])


def _nearest_sign(value: Array) -> Array:
    return jnp.where(value < 0, -1.0, 1.0).astype(value.dtype)
