"""ReLU features of the circle: every product is a sum over arcs, and needs no matrix."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfjax._numerics.arrays import columns, inner
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
        return columns(self._output)(v)

    def scores(self, alpha):
        return columns(self._scores)(alpha)

    def _output(self, v: Float[Array, " M"]) -> Float[Array, " N"]:
        terms = self._terms(v, self.points)
        sums = prefix_sums(terms[:, self.order])
        seen = sums[:, self.before_end] - sums[:, self.before_begin] + self.arcs.wraps * sums[:, -1:]
        return self.root * self._inside(seen, self.x)

    def _scores(self, alpha: Float[Array, " N"]) -> Float[Array, " M"]:
        terms = self._terms(self.root * alpha, self.x)
        begun = prefix_sums(terms[:, self.arcs.by_begin])
        if self.bias is None:
            seen = begun[:, self.begun] - begun[:, self.ended] + jnp.where(self.low, begun[:, -1:], 0)
        else:
            ended = prefix_sums(terms[:, self.arcs.by_end])
            always = inner(terms, self.arcs.wraps)[:, None]
            seen = always + begun[:, self.begun] - ended[:, self.ended]
        return self._inside(seen, self.points)

    def _terms(self, factors: Array, at: Float[Array, "n 2"]) -> Float[Array, "c n"]:
        """What is summed: factors times (at, 1), or times `at` alone where there is no bias."""
        return jnp.stack(
            [factors * at[:, 0], factors * at[:, 1], *([factors] if self.bias is not None else [])]
        )

    def _inside(self, seen: Float[Array, "c n"], at: Float[Array, "n 2"]) -> Float[Array, " n"]:
        """The sums times (at, bias)."""
        flat = seen[0] * at[:, 0] + seen[1] * at[:, 1]
        return flat if self.bias is None else flat + seen[2] * self.bias

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
