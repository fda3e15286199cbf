"""Relative Fisher information, and the free energy of particles."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count, is_traced, kind
from mfjax.domains import Euclidean
from mfjax.energies.base import Energy
from mfjax.flows.base import Flow
from mfjax.flows.wasserstein import smooth_part
from mfjax.grids.faces import above, cells, face_slopes
from mfjax.grids.fitting import fitted
from mfjax.measures import Grid, Measure, Particles
from mfjax.observables.base import Observable
from mfjax.observables.divergences import Divergence


class FisherInformation(Divergence):
    """The relative Fisher information of a density on a grid.

    I(mu | target) = int |grad log(mu / target)|^2 dmu on a `Grid`.

    On the faces between cells i, j of masses m and target masses t, at distance h: the sum of
    theta (r_i - r_j) (log r_i - log r_j) / h^2, r = m / t, theta = t_i t_j / L(t_i, t_j), L the
    logarithmic mean. For the flow of T Entropy + Potential, discretized by exponentially fitted
    fluxes, T^2 I(mu | Gibbs measure) is then the recorded dissipation, to rounding; I tends to the integral
    with second order in h. Log-Sobolev: KL(mu | target) <= I / (2 rho).

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
        return total.astype(mu.dtype)


class FreeEnergy(Observable):
    """An energy plus temperature times entropy, the entropy estimated on particles.

    F(mu) + T int log mu dmu, with an estimate of the entropy on particles.

    On a `Grid` this is the value of `energy`, as recorded with every run. On `Particles`, whose recorded
    energy is the smooth part F alone, the entropy is estimated from the distance e_i of each of M
    particles to its k-th nearest: int log mu dmu = psi(k) - psi(M) - log c_d - (d / M) sum_i log e_i, with
    c_d the volume of the unit ball of dimension d. Its error is O(M^{-1/2}) in one and two dimensions for
    smooth densities; a bias remains at faces, and grows with d. M^2 memory.

    - `neighbors`: k, 3 unless given; larger is smoother and more biased.

    **Raises** `ValueError` on particles of unequal masses (zero masses are padding), of orbits (`Zonal`), and
    on particles and cells for an energy whose value is not known.
    **Fails** where particles coincide: the estimate is then infinite.

    Source: L. Kozachenko, N. Leonenko, Problems Inform. Transmission 23 (1987), for k = 1.

    >>> import jax.random as jr, mfjax as mf
    >>> mu = mf.measures.Particles.sample(mf.domains.Euclidean(1), jr.key(0), 1000)
    >>> exact = -0.5 * np.log(2 * np.pi * np.e)
    >>> bool(abs(FreeEnergy(mf.energies.Entropy())(mu) - exact) < 0.1)
    True
    """

    energy: Energy
    neighbors: int = eqx.field(static=True)

    def __init__(self, energy: Energy, neighbors: int = 3):
        if not isinstance(energy, Energy):
            raise ValueError(f"energy must be an Energy, got {kind(energy)}")
        self.energy, self.neighbors = energy, count(neighbors, "neighbors")

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        on_particles = isinstance(mu, Particles)
        energy = smooth_part(self.energy) if on_particles else self.energy
        value = energy.solve(mu, energy.init(mu)).value
        if value is None:
            raise ValueError("the value of this energy is not known, and so is its free energy")
        if not on_particles:
            return value
        temperature = jnp.asarray(self.energy.temperature).astype(mu.dtype)
        domain = Euclidean(mu.points.shape[1]) if flow is None else flow.domain
        if domain.orbits:
            raise ValueError(f"distances on {domain!r} are not those of the sphere: use a Grid")
        return value + temperature * self._entropy(mu, domain)

    def _entropy(self, mu, domain):
        _check_equal(mu.weights)
        there = mu.weights > 0
        size, k, dim = jnp.sum(there), self.neighbors, domain.dim
        gap = lambda x, y: jnp.sum(domain.displacement(x, y) ** 2)
        squares = jax.vmap(lambda x: jax.vmap(lambda y: gap(x, y))(mu.points))(mu.points)
        squares = jnp.where(there & ~jnp.eye(mu.size, dtype=bool), squares, jnp.inf)
        nearest = -jax.lax.top_k(-squares, k)[0][:, k - 1]
        logs = jnp.sum(jnp.where(there, 0.5 * jnp.log(jnp.where(there, nearest, 1)), 0)) / size
        ball = 0.5 * dim * jnp.log(jnp.pi) - gammaln(0.5 * dim + 1)
        entropy = digamma(jnp.asarray(k, mu.dtype)) - digamma(size.astype(mu.dtype)) - ball - dim * logs
        return entropy.astype(mu.dtype)


def _check_equal(weights: Array) -> None:
    if is_traced(weights):
        return
    masses = np.asarray(weights)[np.asarray(weights) > 0]
    if np.ptp(masses) > 1e-5 * masses.max():
        raise ValueError("the entropy of particles is estimated for equal masses, and these are unequal")
