"""Internal energies: integrals of a function of the density, which become diffusion on a grid."""

from abc import abstractmethod
from typing import ClassVar, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax.domains import Domain
from mfjax.energies.base import Energy, Solution
from mfjax.measures import Grid, Measure, Particles


class InternalEnergy(Energy):
    """An energy that is the integral of a function of the density: its flow is a diffusion.

    F(mu) = int U(rho(x), x) dx for the density rho of mu.

    The author writes `integrand` for one cell and, because the accuracy of a scheme depends on the
    form of the flux, the flux in its best form as `pressure` and `mobility`. Such an energy has no
    potential off the support: on particles it needs a density estimate, unless it is an entropy, which is
    noise. `concave_pressure` promises that the pressure is concave in the density and inverted by
    `density_from_pressure`: implicit steps then converge from anywhere. `flux` names the flux on a grid
    (`mfjax.grids.mass_rate`): that of the pressure, "fitted" for an entropy at some `temperature`, "upwind"
    where diffusion vanishes with the density, so that fronts move.
    """

    concave_pressure: ClassVar[bool] = False
    flux: ClassVar[Literal["pressure", "fitted", "upwind"]] = "pressure"

    @abstractmethod
    def integrand(self, density: Float[Array, " K"], points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """U(rho, x) in each cell."""

    @abstractmethod
    def derivative(self, density: Float[Array, " K"], points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """U'(rho, x) in each cell: the first variation."""

    @abstractmethod
    def pressure(self, density: Float[Array, " K"], points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """p(rho, x), increasing in rho, such that the flux is -a(x) grad p with a from `mobility`."""

    @abstractmethod
    def mobility(self, points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """a(x) >= 0, independent of the density: rho grad U'(rho, x) = a(x) grad p(rho, x)."""

    def density_from_pressure(
        self, pressure: Float[Array, " K"], points: Float[Array, "K d"]
    ) -> Float[Array, " K"]:
        """The inverse of `pressure` in its first argument, for implicit steps."""
        raise NotImplementedError(f"{type(self).__name__} does not invert its pressure")

    def validate(self, mu: Measure, domain=None) -> None:
        if not isinstance(mu, Grid):
            raise ValueError(
                f"{type(self).__name__} is a function of the density and has no value on "
                f"{type(mu).__name__}: use a Grid, or an explicit density estimate"
            )

    def first_variation(self, mu, solution=None):
        self.validate(mu)
        mu = cast(Grid, mu)
        return self.derivative(mu.density, mu.points)

    def solve(self, mu, carry=None):
        self.validate(mu)
        mu = cast(Grid, mu)
        value = mu.integral(self.integrand(mu.density, mu.points))
        return Solution(value, jax.tree_util.Partial(_nearest_cell, self, mu))


class DensityEstimate(Energy):
    """An internal energy of particles, by an estimate of the density of their points."""

    energy: eqx.AbstractVar[InternalEnergy]
    domain: eqx.AbstractVar[Domain]

    def validate(self, mu: Measure, domain: Domain | None = None) -> None:
        name = type(self).__name__
        if not isinstance(mu, Particles):
            own = type(self.energy).__name__
            raise ValueError(
                f"{name} is for Particles, got {type(mu).__name__}: there use {own} itself, its .energy"
            )
        if mu.points.shape[-1] != self.domain.ambient:
            raise ValueError(f"points must have {self.domain.ambient} coordinates, got {mu.points.shape[-1]}")
        if domain is not None and not self.domain.agrees(domain):
            raise ValueError(
                f"this {name} lives on {self.domain!r} and the measure moves on {domain!r}: give it that one"
            )


def _nearest_cell(energy: InternalEnergy, mu: Grid, point: Array) -> Array:
    """The first variation in the cell that holds `point`: piecewise constant, hence without a gradient."""
    values = energy.derivative(mu.density, mu.points)
    gap = mu.points - point
    return values[jnp.argmin(jnp.sum(gap * gap, axis=-1))]
