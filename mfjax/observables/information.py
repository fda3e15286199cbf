"""Relative Fisher information, and the free energy of particles."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

from mfjax._numerics.arrays import added, count, is_traced, kind
from mfjax.domains import Domain, Euclidean, require_domain
from mfjax.energies.base import Energy
from mfjax.energies.internal import DensityEstimate, InternalEnergy
from mfjax.flows.base import Flow
from mfjax.flows.wasserstein import smooth_part
from mfjax.grids.faces import above, cells, face_slopes
from mfjax.grids.fitting import fitted
from mfjax.measures import Grid, Measure, Particles
from mfjax.observables.base import Observable
from mfjax.observables.divergences import Divergence, no_number


class FisherInformation(Divergence):
    """The relative Fisher information of a density on a grid.

    I(mu | target) = int |grad log(mu / target)|^2 dmu on a `Grid`.

    On the faces between cells i, j of masses m and target masses t, at distance h: the sum of
    theta (r_i - r_j) (log r_i - log r_j) / h^2, r = m / t, theta = t_i t_j / L(t_i, t_j), L the
    logarithmic mean. For the flow of T Entropy + Potential, discretized by exponentially fitted
    fluxes, T^2 I(mu | Gibbs measure) is then the recorded dissipation, to rounding; I tends to the integral
    with second order in h. Log-Sobolev: KL(mu | target) <= I / (2 rho).

    The gradient is that along the axes in which noise acts. Along frozen ones, where nothing moves, and
    `Noiseless` ones it has no part, and the inequality holds for the conditional laws alone.

    `target` as for `KL`; infinite where one of two neighboring cells is empty, or the target alone is.

    **Raises** `ValueError` on particles, and for a target on other cells.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> line = mf.domains.Interval(-8.0, 8.0)
    >>> density = lambda shift: lambda x: jnp.exp(-((x[0] - shift) ** 2) / 2)
    >>> mu, target = (mf.measures.Grid.from_density(line, 512, density(shift)) for shift in (0.5, 0.0))
    >>> round(float(FisherInformation(target)(mu)), 3)
    0.25
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        mu = cast(Grid, mu)
        there, full = t > 0, (m > 0) & (t > 0)
        log = lambda values, seen: jnp.log(jnp.where(seen, values, 1))
        ratio = jnp.where(there, m / jnp.where(there, t, 1), 0)
        heights = cells(log(ratio, full), mu)
        forward = fitted(mu, face_slopes(-log(t / mu.relative_volume, there), mu), jnp.ones((), mu.dtype))
        total = jnp.where(jnp.any((m > 0) & ~there), jnp.inf, 0)
        ratio, full, t = cells(ratio, mu), cells(full, mu), cells(t, mu)
        for axis, (theta, _) in enumerate(forward):
            theta = theta * t
            product = (ratio - above(ratio, axis)) * (heights - above(heights, axis))
            both, one = full & above(full, axis), full ^ above(full, axis)
            # An empty cell of the target has no ratio, and no flux.
            one &= (theta > 0) & (above(t, axis) > 0)
            total = total + jnp.sum(jnp.where(both, theta * product, jnp.where(one, jnp.inf, 0)))
        return (total + no_number(t)).astype(mu.dtype)


class FreeEnergy(Observable):
    """An energy plus temperature times entropy, the entropy estimated on particles.

    F(mu) + T int log mu dmu, with an estimate of the entropy on particles.

    On a `Grid` this is the value of `energy`, as recorded with every run of a flow of this energy. On
    `Particles`, whose recorded energy is the smooth part F alone, the entropy is estimated from the distance
    e_i of each of M particles to its k-th nearest: int log mu dmu = psi(k) - psi(M) - log c_d - (d / M) sum_i
    log e_i, with c_d the volume of the unit ball of dimension d. Its error is O(M^{-1/2}) in one and two
    dimensions for smooth densities; a bias remains at faces, and grows with d. M^2 memory. Of a mass other
    than one it is that of the law, mass log mass added. For a flow of heights the entropy is that of rho.

    - `neighbors`: k, 3 unless given; larger is smoother and more biased.
    - `domain`: where distances are taken, that of the flow unless given; without a flow flat space.

    **Raises** `ValueError` on particles of unequal masses (zero masses are padding), k or fewer of them, of
    orbits (`Zonal`), and on particles and cells for an energy whose value is not known. Traced, masses of k
    particles or fewer make NaN.
    **Fails** where particles coincide: the estimate is then infinite.

    Source: L. Kozachenko, N. Leonenko, Problems Inform. Transmission 23 (1987), for k = 1.

    >>> import jax.random as jr, mfjax as mf
    >>> mu = mf.measures.Particles.sample(mf.domains.Euclidean(1), jr.key(0), 1000)
    >>> exact = -0.5 * np.log(2 * np.pi * np.e)
    >>> bool(abs(FreeEnergy(mf.energies.Entropy())(mu) - exact) < 0.1)
    True
    """

    energy: Energy
    domain: Domain | None
    neighbors: int = eqx.field(static=True)

    def __init__(self, energy: Energy, neighbors: int = 3, *, domain: Domain | None = None):
        if not isinstance(energy, Energy):
            raise ValueError(f"energy must be an Energy, got {kind(energy)}")
        require_domain(domain, optional=True)
        self.energy, self.neighbors, self.domain = energy, count(neighbors, "neighbors"), domain

    def validate(self, mu, flow):
        if isinstance(mu, Particles) and self._noisy:
            self._check(mu, self._place(mu, flow))

    @property
    def _noisy(self) -> bool:
        temperature = self.energy.temperature
        return not (isinstance(temperature, float) and temperature == 0)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        on_particles = isinstance(mu, Particles)
        lifted = mu if flow is None else flow.lift(mu)
        value: Any = jnp.zeros((), mu.dtype)
        for coefficient, term in (smooth_part(self.energy) if on_particles else self.energy).parts():
            at = mu if isinstance(term, InternalEnergy | DensityEstimate) else lifted
            own = term.solve(at, term.init(at)).value
            value = added(value, None if own is None else jnp.asarray(coefficient).astype(mu.dtype) * own)
        if value is None:
            raise ValueError("the value of this energy is not known, and so is its free energy")
        if not on_particles or not self._noisy:
            return value
        temperature, place = jnp.asarray(self.energy.temperature).astype(mu.dtype), self._place(mu, flow)
        self._check(mu, place)
        return value + temperature * mu.mass * (self._entropy(mu, place) + jnp.log(mu.mass))

    def _place(self, mu: Measure, flow: Flow | None) -> Domain:
        """Where distances are taken."""
        if self.domain is not None:
            self.domain.validate(mu.points)
            return self.domain
        return Euclidean(mu.points.shape[1]) if flow is None else flow.domain

    def _check(self, mu: Particles, place: Domain) -> None:
        if place.orbits:
            raise ValueError(f"distances on {place!r} are not those of the sphere: use a Grid")
        masses = mu.weights if is_traced(mu.weights) else np.asarray(mu.weights)[np.asarray(mu.weights) > 0]
        if not is_traced(mu.weights) and np.ptp(masses) > 1e-5 * np.max(masses):
            raise ValueError("the entropy of particles is estimated for equal masses, and these are unequal")
        if masses.size <= self.neighbors:
            raise ValueError(
                f"the entropy by {self.neighbors} neighbors needs more particles than {masses.size}"
            )

    def _entropy(self, mu, domain):
        """int log dmu / m of the law mu / m."""
        there = mu.weights > 0
        size, k, dim = jnp.sum(there), self.neighbors, domain.dim
        gap = lambda x, y: domain.distance(x, y) ** 2
        squares = jax.vmap(lambda x: jax.vmap(lambda y: gap(x, y))(mu.points))(mu.points)
        squares = jnp.where(there & ~jnp.eye(mu.size, dtype=bool), squares, jnp.inf)
        nearest = -jax.lax.top_k(-squares, k)[0][:, k - 1]
        logs = jnp.sum(jnp.where(there, 0.5 * jnp.log(jnp.where(there, nearest, 1)), 0)) / size
        ball = 0.5 * dim * jnp.log(jnp.pi) - gammaln(0.5 * dim + 1)
        entropy = digamma(jnp.asarray(k, mu.dtype)) - digamma(size.astype(mu.dtype)) - ball - dim * logs
        return jnp.where(size > k, entropy, jnp.nan).astype(mu.dtype)
