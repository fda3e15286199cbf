"""Gram matrices of ReLU features of the plane from second moments of the data over sectors."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, inner, transposed_inner
from mfjax._numerics.operators.arcs import Arcs, opposite, wrapped
from mfjax._numerics.operators.base import Operator


class Sectors(Operator):
    """A_ji = root_j max(omega_i . x_j, 0) as a matrix whose Gram matrix costs O(M^2), whatever N.

    `points` (M, 2) are omega of any length; `arcs` those of the data at bias 0, with their moments. Phi^T is
    what is stored: products of inputs and particles come out that way, and transposing them costs more than
    a step of a narrow network.
    """

    transposed: Float[Array, "M N"]
    root: Float[Array, " N"]
    points: Float[Array, "M 2"]
    arcs: Arcs

    def __init__(self, array: Float[Array, "N M"], root, points, arcs):
        self.transposed, self.root, self.points, self.arcs = array.T, root, points, arcs

    @property
    def shape(self):
        return self.transposed.shape[::-1]

    @property
    def quick_gram(self):
        return True

    @property
    def span(self):
        return 32

    def output(self, v):
        output = transposed_inner(self.transposed, v)
        return along(self.root, output) * output

    def scores(self, alpha):
        return inner(self.transposed, along(self.root, alpha) * alpha)

    def rows(self, index):
        return self.root[index, None] * self.transposed[:, index].T

    def columns(self, index):
        return (self.transposed[index] * self.root).T

    def matrix(self):
        return (self.transposed * self.root).T

    def gram(self):
        return sector_gram(self.points, self.arcs)


def sector_gram(points: Float[Array, "M 2"], arcs: Arcs) -> Float[Array, "M M"]:
    """G_ik = omega_i . S_ik omega_k, S_ik = sum of p_j x_j x_j^T over the data that both particles see.

    Datum j, whose arc of particles begins at b_j and is half a circle, is seen from theta where
    theta - pi <= b_j < theta. With E(theta) the sum over b_j < theta, continued to theta < -pi by
    E(theta + 2 pi) - T, T the sum over all, and theta_i <= theta_k: S_ik = E(theta_i) - E(theta_k - pi) where
    theta_k - theta_i < pi, and E(theta_k) - T - E(theta_i - pi) beyond.
    """
    angle = wrapped(jnp.arctan2(points[:, 1], points[:, 0]))
    total = _symmetric(arcs.moments[-1:])
    seen = lambda theta: _symmetric(arcs.moments[jnp.searchsorted(arcs.begin, theta)])
    low = angle < 0
    # Here and below 2-vectors (2, M): E(theta_i) omega_i and E(theta_i - pi) omega_i.
    omega = points.T
    top = _times(seen(angle), omega)
    bottom = _times(seen(opposite(angle)), omega) - jnp.where(low, _times(total, omega), 0)
    pairs = lambda a, b: a[0][:, None] * b[0] + a[1][:, None] * b[1]
    upper = pairs(top, omega) - pairs(omega, bottom)
    gap = angle - angle[:, None]
    near = jnp.abs(gap) < np.pi
    whole = jnp.where(near, 0, pairs(omega, _times(total, omega)))
    return jnp.where(near == (gap >= 0), upper, upper.T) - whole


def _symmetric(moments: Float[Array, "K 3"]) -> tuple[Array, Array, Array]:
    return moments[:, 0], moments[:, 1], moments[:, 2]


def _times(matrix: tuple[Array, Array, Array], vector: Float[Array, "2 M"]) -> Float[Array, "2 M"]:
    """[[a, b], [b, c]] v for each column."""
    a, b, c = matrix
    return jnp.stack([a * vector[0] + b * vector[1], b * vector[0] + c * vector[1]])
