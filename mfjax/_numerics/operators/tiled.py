"""Features computed again at every product, a block of particles at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner
from mfjax._numerics.operators.base import Operator


class Tiled(Operator):
    """A product costs N M features and memory O(N + M): for measures whose matrix does not fit.

    `features` has `matrix(points, inputs)`; `points` (M, d), inputs `x` (N, k), `root` (N,) holds sqrt(p);
    `block` particles are in memory at a time, in reverse mode too.
    """

    features: Any
    points: Float[Array, "M d"]
    x: Float[Array, "N k"]
    root: Float[Array, " N"]
    block: int = eqx.field(static=True)

    @property
    def shape(self):
        return len(self.x), len(self.points)

    @property
    def fits(self):
        return False

    def _columns(self, points):
        return self.root[:, None] * self.features.matrix(points, self.x)

    def output(self, v):
        def add(total, part):
            points, weights = part
            return total + inner(self._columns(points), weights), None

        zero = jnp.zeros(len(self.x), v.dtype)
        return jax.lax.scan(jax.checkpoint(add), zero, self._blocks(v))[0]

    def scores(self, alpha):
        one = jax.checkpoint(lambda part: inner(alpha, self._columns(part[0])))
        blocks = self._blocks(jnp.zeros(len(self.points), alpha.dtype))
        return jax.lax.map(one, blocks).reshape(-1)[: len(self.points)]

    def _blocks(self, v) -> tuple[Array, Array]:
        """Points (B, block, d) and numbers (B, block); the last block is filled with zeros."""
        size = len(self.points)
        rest = -size % self.block
        # A point that is there already: features may be undefined elsewhere.
        extra = jnp.broadcast_to(self.points[:1], (rest, self.points.shape[1]))
        split: Callable = lambda a: a.reshape(-1, self.block, *a.shape[1:])
        return split(jnp.concatenate([self.points, extra])), split(jnp.pad(v, (0, rest)))

    def rows(self, index):
        return self.root[index, None] * self.features.matrix(self.points, self.x[index])

    def columns(self, index):
        return self._columns(self.points[index])

    def matrix(self):
        return self._columns(self.points)
