"""The energy of slow diffusion, whose fronts move at finite speed."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, scalar
from mfjax.energies.internal import InternalEnergy


class PorousMedium(InternalEnergy):
    """The internal energy of slow diffusion, whose fronts move at finite speed.

    F(mu) = int rho^m dx / (m (m - 1)), with gradient flow d_t rho = Laplacian(rho^m) / m.

    `order` m > 1, 2 unless given: then F = 1/2 int rho^2 and d_t rho = div(rho grad rho) (survey 4.2 scales
    it by tau). Diffusion vanishes with the density, so that supports are compact and spread at finite speed:
    with V = lam x^2 / 2 on the line, T * PorousMedium() + Potential(V) keeps the profile (Barenblatt)

        rho = 3 / (4 R) (1 - x^2 / R^2)_+,  R^3 = S + (R0^3 - S) e^{-3 lam t},  S = 1.5 T / lam,

    and R^3 = R0^3 + 4.5 T t at lam = 0. At a minimizer V + T rho^{m-1} / (m - 1) is constant on the support
    and not below that constant elsewhere: with a potential the support need not be the whole domain.

    On a `Grid` limited upwind fluxes keep masses non-negative and move the front within a cell.
    **Raises** `ValueError` for m <= 1, and on particles, which have no density.

    >>> from mfjax.domains import Interval
    >>> from mfjax.measures import Grid
    >>> float(PorousMedium()(Grid.uniform(Interval(0.0, 2.0), 4)))
    0.25
    """

    flux: ClassVar = "upwind"
    order: Float[Array, ""]

    def __init__(self, order: ScalarLike = 2.0):
        self.order = scalar(order, "order")
        if not is_traced(self.order) and float(self.order) <= 1:
            raise ValueError(f"order must be greater than 1, got {float(self.order):g}; 1 is the Entropy")

    def _order(self, density):
        return self.order.astype(density.dtype)

    def integrand(self, density, points):
        m = self._order(density)
        return density**m / (m * (m - 1))

    def derivative(self, density, points):
        m = self._order(density)
        return density ** (m - 1) / (m - 1)

    def pressure(self, density, points):
        m = self._order(density)
        return density**m / m

    def mobility(self, points):
        return jnp.ones(points.shape[:1], points.dtype)
