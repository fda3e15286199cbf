"""Internal energies of particles on a line or circle, by the spacings between neighbors."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mfjax._numerics.arrays import is_traced
from mfjax.domains import Domain
from mfjax.energies.base import Solution
from mfjax.energies.internal import DensityEstimate, InternalEnergy
from mfjax.measures import Measure


class Spacings(DensityEstimate):
    """An internal energy for particles in one dimension, whose density is mass over gap.

    F(mu) = sum over gaps g of U(rho_g, x_g) |g| for particles in one dimension, rho_g the mass over |g|.

    A gap joins neighbors and holds half of the mass of each; at the ends of a line, all of the outer one.
    So particles, which are quantiles of the density, carry internal energies without noise or kernel, and
    `steppers.Proximal` on them is the minimizing movement (JKO) scheme by quantiles: convex for energies that
    are displacement convex, such as the entropy and slow diffusion.

    - `energy`: an `InternalEnergy`, in place of which this one stands in sums: T * Spacings(Entropy(), line).
    - `domain`: `Euclidean(1)`, an interval or `Torus(1)`.

    First order in the spacing at free ends, second order inside and on a circle. The potential is U' in the
    gap that holds a point: constant there, so that forces are the derivative of F in the positions.

    Particles of zero mass (padding) have no neighbors and feel no force, whatever lies around them.

    **Raises** `ValueError` in several dimensions, on another domain than the flow's, for a `Grid`, and for
    fewer than three particles of positive mass. **Fails** (NON_FINITE) where particles meet.

    Source: L. Gosse, G. Toscani, SIAM J. Numer. Anal. 43 (2006) 2590-2606.

    >>> import mfjax as mf
    >>> line = mf.domains.Interval(0.0, 1.0)
    >>> mu = mf.measures.Particles(jnp.array([[0.0], [0.5], [1.0]]))
    >>> float(Spacings(mf.energies.PorousMedium(), line)(mu))
    0.5
    """

    energy: InternalEnergy
    domain: Domain

    def __init__(self, energy: InternalEnergy, domain: Domain):
        if not isinstance(energy, InternalEnergy):
            raise ValueError(f"energy must be an InternalEnergy, got {type(energy).__name__}")
        if not domain.dim == domain.ambient == 1:
            raise ValueError(f"neighbors need Euclidean(1), an interval or Torus(1), got {domain!r}")
        self.energy, self.domain = energy, domain

    def validate(self, mu, domain=None):
        super().validate(mu, domain)
        if mu.size < 3 or (not is_traced(mu.weights) and np.sum(np.asarray(mu.weights) > 0) < 3):
            raise ValueError("Spacings needs three particles or more of positive mass")

    def solve(self, mu, carry=None):
        value = self._value(mu.points, mu.weights)
        return Solution(value, jax.tree_util.Partial(_in_its_gap, self, mu))

    def first_variation(self, mu, solution=None):
        return jax.grad(self._value, argnums=1)(mu.points, mu.weights)

    def gradient_field(self, mu, solution=None):
        # No gap depends on padding, whose slope is zero already.
        masses = jnp.where(mu.weights > 0, mu.weights, 1)
        return jax.grad(self._value)(mu.points, mu.weights) / masses[:, None]

    def gaps(
        self, points: Float[Array, "K 1"], weights: Float[Array, " K"]
    ) -> tuple[Bool[Array, " G"], Float[Array, " G"], Float[Array, " G"], Float[Array, "G 1"]]:
        """(which are gaps, lengths, masses, middles) from left to right; length and mass 1 for no gaps."""
        massive = weights > 0
        # Padding comes last, after all particles, so that gaps join neighbors of positive mass.
        order = jnp.argsort(jnp.where(massive, points[:, 0], jnp.inf))
        x, m, massive = points[order, 0], weights[order], massive[order]
        last = massive & ~jnp.append(massive[1:], False)
        if self.domain.closed[0]:
            period, real = self.domain.lengths.astype(x.dtype)[0], massive
            lengths = jnp.where(last, x[0] + period, jnp.roll(x, -1)) - x
            masses = 0.5 * (m + jnp.where(last, m[0], jnp.roll(m, -1)))
            lengths = jnp.where(real, lengths, 1)
            middles = jax.vmap(self.domain.retract)(x[:, None], 0.5 * lengths[:, None])
        else:
            real, lengths, middles = massive[1:], jnp.diff(x), (0.5 * (x[1:] + x[:-1]))[:, None]
            masses = 0.5 * (m[1:] + m[:-1]) + 0.5 * jnp.where(last[1:], m[1:], 0)
            masses = masses.at[0].add(0.5 * m[0])
        return real, jnp.where(real, lengths, 1), jnp.where(real, masses, 1), middles

    def _value(self, points: Array, weights: Array) -> Array:
        real, lengths, masses, middles = self.gaps(points, weights)
        return jnp.sum(jnp.where(real, lengths * self.energy.integrand(masses / lengths, middles), 0))


def _in_its_gap(spacings: Spacings, mu: Measure, point: Array) -> Array:
    """U' in the gap around `point`; in the outer gap beyond the ends of a line."""
    real, lengths, masses, middles = spacings.gaps(mu.points, mu.weights)
    values = spacings.energy.derivative(masses / lengths, middles)
    distance = jnp.abs(jax.vmap(spacings.domain.displacement, (0, None))(middles, point)[:, 0])
    return values[jnp.argmin(jnp.where(real, distance - 0.5 * lengths, jnp.inf))]
