"""What energies of neighboring particles in one dimension share: order along the domain, gaps, pieces."""

from abc import abstractmethod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfjax.domains import Domain, require_domain
from mfjax.energies.base import Solution
from mfjax.energies.internal import DensityEstimate
from mfjax.measures import Measure


class Neighbors(NamedTuple):
    """Particles from left to right by `coordinates` (arc length), those of zero mass last.

    `partners` are the masses of the next on the right, `gaps` the way to it, for those that are `paired`;
    elsewhere masses are 1 and gaps 0. `first` and `last` are the outer ones of those that are `massive`.
    """

    coordinates: Float[Array, " K"]
    masses: Float[Array, " K"]
    partners: Float[Array, " K"]
    gaps: Float[Array, " K"]
    massive: Bool[Array, " K"]
    paired: Bool[Array, " K"]
    first: Bool[Array, " K"]
    last: Bool[Array, " K"]


class Pieces(NamedTuple):
    """The parts that particles divide a domain into: their `middles` and `lengths` in arc length.

    `values` are the energies in each and `variations` the first variation there; `real` are those that count.
    """

    real: Bool[Array, " K"]
    middles: Float[Array, " K"]
    lengths: Float[Array, " K"]
    values: Float[Array, " K"]
    variations: Float[Array, " K"]


class NeighborEstimate(DensityEstimate):
    """An internal energy of particles in one dimension, as a sum over pieces between or around neighbors.

    The author writes `pieces`. The potential is the first variation in the piece that holds a point: constant
    there, so that forces are the derivative of the value in the positions.
    """

    @abstractmethod
    def pieces(self, points: Float[Array, "K d"], weights: Float[Array, " K"]) -> Pieces:
        """Where the pieces lie, and their energies."""

    @property
    def divisible(self):
        return False

    def solve(self, mu, carry=None):
        value = self._value(mu.points, mu.weights)
        return Solution(value, jax.tree_util.Partial(_in_its_piece, self, mu))

    def first_variation(self, mu, solution=None):
        return jax.grad(self._value, argnums=1)(mu.points, mu.weights)

    def gradient_field(self, mu, solution=None):
        # No piece depends on padding, whose slope is zero already.
        masses = jnp.where(mu.weights > 0, mu.weights, 1)
        return jax.grad(self._value)(mu.points, mu.weights) / masses[:, None]

    def neighbors(self, points: Float[Array, "K d"], weights: Float[Array, " K"]) -> Neighbors:
        massive = weights > 0
        q = jax.vmap(self.domain.coordinates)(points)[:, 0]
        # Padding comes last, after all particles, so that gaps join neighbors of positive mass.
        order = jnp.argsort(jnp.where(massive, q, jnp.inf))
        q, massive = q[order], massive[order]
        m = jnp.where(massive, weights[order], 1)
        last = massive & ~jnp.append(massive[1:], False)
        following, partners = jnp.roll(q, -1), jnp.roll(m, -1)
        if self.domain.closed[0]:
            following = jnp.where(last, q[0] + self.domain.lengths.astype(q.dtype)[0], following)
            paired, partners = massive, jnp.where(last, m[0], partners)
        else:
            paired = massive & ~last
        gaps = jnp.where(paired, following - q, 0)
        first = massive & (jnp.arange(len(q)) == 0)
        return Neighbors(q, m, jnp.where(paired, partners, 1), gaps, massive, paired, first, last)

    def at(self, coordinates: Float[Array, " K"]) -> Float[Array, "K d"]:
        """The points of some coordinates, which may lie beyond the seam of a closed domain."""
        axis = self.domain.axes[0]
        if axis.closed:
            lower, length = (jnp.asarray(n, coordinates.dtype) for n in (axis.lower, axis.length))
            coordinates = lower + jnp.mod(coordinates - lower, length)
        return jax.vmap(self.domain.point)(coordinates[:, None])

    def _value(self, points: Array, weights: Array) -> Array:
        pieces = self.pieces(points, weights)
        return jnp.sum(jnp.where(pieces.real, pieces.values, 0))


def require_neighbors(domain: Domain) -> None:
    """**Raises** `ValueError` unless particles on `domain` have neighbors."""
    require_domain(domain)
    if not (domain.dim == 1 and domain.euclidean):
        raise ValueError(
            f"neighbors need one dimension, as on Euclidean(1), an interval, Torus(1), Sphere(1) or a curve, "
            f"got {domain!r}"
        )


def _in_its_piece(estimate: NeighborEstimate, mu: Measure, point: Array) -> Array:
    """The first variation in the piece around `point`; in the outer one beyond the ends of a line."""
    pieces = estimate.pieces(mu.points, mu.weights)
    away = pieces.middles - estimate.domain.coordinates(point)[0]
    if estimate.domain.closed[0]:
        length = estimate.domain.lengths.astype(away.dtype)[0]
        away = away - length * jnp.round(away / length)
    outside = jnp.abs(away) - 0.5 * pieces.lengths
    return pieces.variations[jnp.argmin(jnp.where(pieces.real, outside, jnp.inf))]
