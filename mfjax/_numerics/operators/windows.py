"""ReLU features of the circle: every product is a sum over arcs, and needs no matrix."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfjax._numerics.arrays import as_block, inner
from mfjax._numerics.operators.arcs import Arcs, opposite, wrapped
from mfjax._numerics.operators.base import LARGEST, Operator
from mfjax._numerics.operators.prefix import prefix_sums
from mfjax._numerics.operators.sectors import sector_gram


def near_circle(points: Float[Array | np.ndarray, "M 2"]) -> Bool[Array | np.ndarray, " M"]:
    """Whether each point has length one, up to a thousandth."""
    return abs((points * points).sum(axis=1) - 1) <= 2e-3


class Windows(Operator):
    """A_ji = root_j max(omega_i . x_j + bias, 0) in the plane, at O(N + M) a product, after sorting.

    `bias` is None where there is none.

    Whether particle i lies on the arc of datum j is a comparison of angles, so that sums over particles, or
    over data, are differences of prefix sums over sorted angles. Without bias omega may have any length, else
    it must have length one, and results are NaN where it has not. A sum of n terms has an absolute error of
    about log2(n) roundings of its largest term, also where that is not in the window: one input a thousand
    times longer than the others costs three digits.
    """

    points: Float[Array, "M 2"]
    x: Float[Array, "N 2"]
    root: Float[Array, " N"]
    bias: Float[Array, ""] | None
    arcs: Arcs
    # Particles by angle, and how many of them come before each end of an arc (in the order of the data).
    order: Int[Array, " M"]
    before_begin: Int[Array, " N"]
    before_end: Int[Array, " N"]
    # How many arcs begin and end before each particle (in the order of the particles). Without a bias they
    # are half circles, and those that end before a particle begin before the opposite point; `low` particles,
    # of angles below zero, are on those that begin after it.
    begun: Int[Array, " M"]
    ended: Int[Array, " M"]
    low: Bool[Array, " M"]

    def __init__(self, points, x, root, bias, arcs: Arcs | None = None):
        arcs = Arcs(x, jnp.zeros((), x.dtype) if bias is None else bias, root) if arcs is None else arcs
        self.x, self.root, self.bias, self.arcs = x, root, bias, arcs
        # Elsewhere the arcs differ: NaN rather than a wrong number.
        there = bias is None or near_circle(points)[:, None]
        self.points = jnp.where(there, points, jnp.nan)
        angle = wrapped(jnp.arctan2(points[:, 1], points[:, 0]))
        self.order = jnp.argsort(angle)
        ascending = angle[self.order]
        count = lambda ends, by: (
            jnp.zeros(len(x), jnp.int32)
            .at[by]
            .set(jnp.searchsorted(ascending, ends, side="right").astype(jnp.int32), unique_indices=True)
        )
        self.before_begin, self.before_end = count(arcs.begin, arcs.by_begin), count(arcs.end, arcs.by_end)
        self.begun = jnp.searchsorted(arcs.begin, angle).astype(jnp.int32)
        self.low = angle < 0
        if bias is None:
            self.ended = jnp.searchsorted(arcs.begin, opposite(angle)).astype(jnp.int32)
        else:
            self.ended = jnp.searchsorted(arcs.end, angle).astype(jnp.int32)

    @property
    def shape(self):
        return len(self.x), len(self.points)

    @property
    def quick_gram(self):
        return self.bias is None

    @property
    def fits(self):
        return len(self.x) * len(self.points) * self.x.dtype.itemsize <= LARGEST

    @property
    def span(self):
        return 32

    def output(self, v):
        return as_block(self._output)(v)

    def scores(self, alpha):
        return as_block(self._scores)(alpha)

    def _output(self, v: Float[Array, "M c"]) -> Float[Array, "N c"]:
        sums = prefix_sums(self._terms(v, self.points)[self.order])
        seen = sums[self.before_end] - sums[self.before_begin] + self.arcs.wraps[:, None] * sums[-1]
        return self.root[:, None] * self._inside(seen, self.x)

    def _scores(self, alpha: Float[Array, "N c"]) -> Float[Array, "M c"]:
        terms = self._terms(self.root[:, None] * alpha, self.x)
        begun = prefix_sums(terms[self.arcs.by_begin])
        if self.bias is None:
            seen = begun[self.begun] - begun[self.ended] + jnp.where(self.low[:, None], begun[-1], 0)
        else:
            ended = prefix_sums(terms[self.arcs.by_end])
            seen = inner(self.arcs.wraps, terms) + begun[self.begun] - ended[self.ended]
        return self._inside(seen, self.points)

    def _terms(self, factors: Float[Array, "n c"], at: Float[Array, "n 2"]) -> Float[Array, "n k"]:
        """What is summed: factors times at_1, at_2 and, where there is a bias, 1, side by side."""
        parts = [factors * at[:, :1], factors * at[:, 1:]]
        return jnp.concatenate(parts if self.bias is None else [*parts, factors], axis=1)

    def _inside(self, seen: Float[Array, "n k"], at: Float[Array, "n 2"]) -> Float[Array, "n c"]:
        """The sums times (at, bias)."""
        if self.bias is None:
            first, second = jnp.split(seen, 2, axis=1)
            return first * at[:, :1] + second * at[:, 1:]
        first, second, factors = jnp.split(seen, 3, axis=1)
        return first * at[:, :1] + second * at[:, 1:] + factors * self.bias

    def gram(self):
        # Without a bias particles see half planes of the data, which have moments.
        return sector_gram(self.points, self.arcs) if self.bias is None else super().gram()

    def rows(self, index):
        return self._block(self.points, self.x[index], self.root[index])

    def columns(self, index):
        return self._block(self.points[index], self.x, self.root)

    def matrix(self):
        return self._block(self.points, self.x, self.root)

    def _block(self, points, x, root):
        inside = x[:, :1] * points[:, 0] + x[:, 1:] * points[:, 1]
        inside = inside if self.bias is None else inside + self.bias
        return root[:, None] * jnp.where(inside > 0, inside, 0)
