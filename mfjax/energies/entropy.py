"""The entropy: heat diffusion on a grid, Brownian noise on particles."""

from typing import ClassVar

import jax.numpy as jnp

from mfjax.energies.base import Solution
from mfjax.energies.internal import InternalEnergy
from mfjax.measures import Grid


class Entropy(InternalEnergy):
    """The negative entropy of a density: diffusion on a grid, noise on particles.

    F(mu) = int rho log rho dx, with Wasserstein gradient flow d_t rho = Laplacian rho.

    On particles it has no value: it acts as noise of temperature 1, and the recorded energy is the
    smooth remainder. `T * Entropy()` gives d_t rho = T Laplacian rho and noise sqrt(2 T) dW. Relative
    entropy with respect to g = e^{-U} is `Entropy() + Potential(U)`.

    >>> float((0.5 * Entropy()).temperature)
    0.5
    """

    concave_pressure: ClassVar[bool] = True
    flux: ClassVar = "fitted"

    @property
    def temperature(self):
        return 1.0

    def integrand(self, density, points):
        positive = density > 0
        safe = jnp.where(positive, density, 1.0)
        return jnp.where(positive, safe * jnp.log(safe), 0.0)

    def derivative(self, density, points):
        return jnp.log(jnp.maximum(density, jnp.finfo(density.dtype).tiny)) + 1

    def pressure(self, density, points):
        return density

    def density_from_pressure(self, pressure, points):
        return pressure

    def mobility(self, points):
        return jnp.ones(points.shape[:1], points.dtype)

    def validate(self, mu, domain=None):
        """Valid on every measure: on particles it is noise."""

    def first_variation(self, mu, solution=None):
        if isinstance(mu, Grid):
            return super().first_variation(mu, solution)
        return jnp.zeros((mu.size,), mu.dtype)

    def solve(self, mu, carry=None):
        if isinstance(mu, Grid):
            return super().solve(mu, carry)
        return Solution(jnp.zeros((), mu.dtype), _zero)


def _zero(point):
    return jnp.zeros((), point.dtype)
