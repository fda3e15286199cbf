"""Features computed again at every product, a block of particles at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, columns
from mfjax._numerics.operators.base import Operator
from mfjax._numerics.operators.dense import Dense


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
    def variables(self):
        return max(self.x.shape[1], self.points.shape[1])

    @property
    def fits(self):
        return False

    def _columns(self, points):
        matrix = self.features.matrix(points, self.x)
        return along(self.root, matrix) * matrix

    def output(self, v):
        return columns(self._output)(v)

    def scores(self, alpha):
        like = jax.eval_shape(self._columns, self.points[:1])
        return self._scores(alpha) if like.ndim == 3 else columns(self._scores)(alpha)

    def _output(self, v: Float[Array, " M"]) -> Float[Array, "N *c"]:
        def add(total, part):
            points, weights = part
            return total + Dense(self._columns(points)).output(weights), None

        like = jax.eval_shape(self._columns, self.points[:1])
        zero = jnp.zeros((len(self.x), *like.shape[2:]), v.dtype)
        return jax.lax.scan(jax.checkpoint(add), zero, self._blocks(v))[0]

    def _scores(self, alpha: Float[Array, "N *c"]) -> Float[Array, " M"]:
        one = jax.checkpoint(lambda part: Dense(self._columns(part[0])).scores(alpha))
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
        matrix = self.features.matrix(self.points, self.x[index])
        return along(self.root[index], matrix) * matrix

    def columns(self, index):
        return self._columns(self.points[index])

    def matrix(self):
        return self._columns(self.points)
