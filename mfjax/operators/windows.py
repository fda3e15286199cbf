"""ReLU features of the circle: every product is a sum over arcs, and needs no matrix."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax._arrays import inner
from mfjax.operators.base import Operator
from mfjax.operators.prefix import prefix_sums


class Arcs(eqx.Module):
    """For every datum the arc of theta on which omega . x_j + bias > 0, omega = (cos theta, sin theta).

    It is centred at the angle of x_j with half width arccos(-bias / |x_j|): half a circle at bias 0. Ends
    lie in [-pi, pi); `wraps` (N,) is one where the arc contains the angle -pi. `begin` and `end` (N,) are
    the ends sorted, `by_begin` and `by_end` the data in these orders. Made once for given data.
    """

    begin: Float[Array, " N"]
    end: Float[Array, " N"]
    by_begin: Int[Array, " N"]
    by_end: Int[Array, " N"]
    wraps: Float[Array, " N"]

    def __init__(self, x: Float[Array, "N 2"], bias: Float[Array, ""]):
        radius = jnp.sqrt(jnp.sum(x * x, axis=1))
        cosine = -bias / jnp.where(radius > 0, radius, jnp.finfo(x.dtype).tiny)
        half = jnp.arccos(jnp.clip(cosine, -1, 1))
        centre = jnp.arctan2(x[:, 1], x[:, 0])
        begin, end = (wrapped(centre + side * half) for side in (-1, 1))
        # Of width 2 pi (or nil) up to rounding: the ends must not say otherwise.
        whole, empty = cosine <= -1, cosine >= 1
        end = jnp.where(whole | empty, begin, end)
        self.wraps = jnp.where(whole, 1, jnp.where(empty, 0, begin > end)).astype(x.dtype)
        self.by_begin, self.by_end = jnp.argsort(begin), jnp.argsort(end)
        self.begin, self.end = begin[self.by_begin], end[self.by_end]


def wrapped(angle: Array) -> Array:
    """The angle in [-pi, pi)."""
    return angle - 2 * np.pi * jnp.floor((angle + np.pi) / (2 * np.pi))


class Windows(Operator):
    """A_ji = root_j max(omega_i . x_j + bias, 0) in the plane, at O(N + M) a product, after sorting.

    Whether particle i lies on the arc of datum j is a comparison of angles, so that sums over particles, or
    over data, are differences of prefix sums over sorted angles. For bias = 0 omega may have any length, else
    it must have length one. A sum of n terms of size one has an absolute error of about log2(n) roundings.
    """

    points: Float[Array, "M 2"]
    x: Float[Array, "N 2"]
    root: Float[Array, " N"]
    bias: Float[Array, ""]
    arcs: Arcs
    # Particles by angle, and how many of them come before each end of an arc (in the order of the data).
    order: Int[Array, " M"]
    before_begin: Int[Array, " N"]
    before_end: Int[Array, " N"]
    # How many ends of arcs come before each particle (in the order of the particles).
    begun: Int[Array, " M"]
    ended: Int[Array, " M"]

    def __init__(self, points, x, root, bias, arcs: Arcs | None = None):
        arcs = Arcs(x, bias) if arcs is None else arcs
        self.points, self.x, self.root, self.bias, self.arcs = points, x, root, bias, arcs
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
        self.ended = jnp.searchsorted(arcs.end, angle).astype(jnp.int32)

    @property
    def shape(self):
        return len(self.x), len(self.points)

    def output(self, v):
        terms = jnp.stack([v * self.points[:, 0], v * self.points[:, 1], v])
        sums = prefix_sums(terms[:, self.order])
        seen = sums[:, self.before_end] - sums[:, self.before_begin] + self.arcs.wraps * sums[:, -1:]
        return self.root * (seen[0] * self.x[:, 0] + seen[1] * self.x[:, 1] + seen[2] * self.bias)

    def scores(self, alpha):
        dual = self.root * alpha
        terms = jnp.stack([dual * self.x[:, 0], dual * self.x[:, 1], dual])
        begun, ended = (prefix_sums(terms[:, by]) for by in (self.arcs.by_begin, self.arcs.by_end))
        always = inner(terms, self.arcs.wraps)[:, None]
        seen = always + begun[:, self.begun] - ended[:, self.ended]
        return seen[0] * self.points[:, 0] + seen[1] * self.points[:, 1] + seen[2] * self.bias

    def rows(self, index):
        return self._block(self.points, self.x[index], self.root[index])

    def columns(self, index):
        return self._block(self.points[index], self.x, self.root)

    def matrix(self):
        return self._block(self.points, self.x, self.root)

    def _block(self, points, x, root):
        inside = x[:, :1] * points[:, 0] + x[:, 1:] * points[:, 1] + self.bias
        return root[:, None] * jnp.where(inside > 0, inside, 0)
