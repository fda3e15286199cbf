"""Internal energies of particles on a line or a closed curve, by the spacings between neighbors."""

import jax.numpy as jnp
import numpy as np

from mfjax._numerics.arrays import is_traced
from mfjax.domains import Domain
from mfjax.energies.internal import InternalEnergy
from mfjax.energies.neighbors import NeighborEstimate, Pieces, require_neighbors


class Spacings(NeighborEstimate):
    """An internal energy for particles in one dimension, whose density is mass over gap.

    F(mu) = sum over gaps g of U(rho_g, x_g) |g| for particles in one dimension, rho_g the mass over |g|, x_g
    the point in the middle of g.

    A gap joins neighbors and holds half of the mass of each, or half of that of the outer particle before a
    wall; on a side without one the outermost gap holds all of it. So particles, which are quantiles of the
    density, carry internal energies without noise or kernel, and `steppers.Proximal` on them is the
    minimizing movement (JKO) scheme by quantiles: convex for energies that are displacement convex, such as
    the entropy and slow diffusion.

    - `energy`: an `InternalEnergy`, in place of which this one stands in sums: T * Spacings(Entropy(), line).
    - `domain`: one of dimension one: `Euclidean(1)`, an interval, `Torus(1)`, `Sphere(1)` or a curve of your
      own; gaps are arcs.

    First order in the spacing at free ends, second order inside, at walls and on closed curves. The potential
    is U' in the gap that holds a point: constant there, so that forces are the derivative of F in the
    positions.

    Particles of zero mass (padding) have no neighbors and feel no force, whatever lies around them.

    **Raises** `ValueError` in several dimensions, on another domain than the flow's, for a `Grid`, and for
    fewer than three particles of positive mass. **Fails** (NON_FINITE) where particles meet one another or a
    wall, and, quietly, on `Euclidean(1)` for an energy that is infinite where the density vanishes
    (`PowerDivergence`): the outer particles, beyond which it is not seen, are drawn in.

    Source: L. Gosse, G. Toscani, SIAM J. Numer. Anal. 43 (2006) 2590-2606.

    >>> import mfjax as mf
    >>> line = mf.domains.Interval(0.0, 1.0)
    >>> mu = mf.measures.Particles(jnp.array([[0.125], [0.375], [0.625], [0.875]]))
    >>> float(Spacings(mf.energies.PorousMedium(), line)(mu))
    0.5
    """

    energy: InternalEnergy
    domain: Domain

    def __init__(self, energy: InternalEnergy, domain: Domain):
        if not isinstance(energy, InternalEnergy):
            raise ValueError(f"energy must be an InternalEnergy, got {type(energy).__name__}")
        require_neighbors(domain)
        self.energy, self.domain = energy, domain

    def validate(self, mu, domain=None):
        super().validate(mu, domain)
        if mu.size < 3 or (not is_traced(mu.weights) and np.sum(np.asarray(mu.weights) > 0) < 3):
            raise ValueError("Spacings needs three particles or more of positive mass")

    def pieces(self, points, weights):
        n, axis = self.neighbors(points, weights), self.domain.axes[0]
        real, left, lengths, masses = n.paired, n.coordinates, n.gaps, 0.5 * (n.masses + n.partners)
        if not axis.closed:
            for wall, outer, beside in (
                (axis.lower, n.first, n.first),
                (axis.upper, n.last, jnp.roll(n.last, -1)),
            ):
                half, at = (
                    jnp.sum(jnp.where(outer, values, 0)) for values in (0.5 * n.masses, n.coordinates)
                )
                if wall is None:
                    masses = masses + jnp.where(n.paired & beside, half, 0)
                    continue
                wall = jnp.asarray(wall, at.dtype)
                real, masses = jnp.append(real, True), jnp.append(masses, half)
                left, lengths = (
                    jnp.append(left, jnp.minimum(at, wall)),
                    jnp.append(lengths, jnp.abs(wall - at)),
                )
        middles = left + 0.5 * lengths
        lengths, places = jnp.where(real, lengths, 1), self.at(middles)
        density = masses / lengths
        values = lengths * self.energy.integrand(density, places)
        return Pieces(real, middles, lengths, values, self.energy.derivative(density, places))
