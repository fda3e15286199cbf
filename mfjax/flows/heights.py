"""What the three (rho, H) systems share: a network whose outer weight is a height over each feature."""

from abc import abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax import grids
from mfjax._arrays import inner
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.flows.wasserstein import smooth_part
from mfjax.measures import Grid, Measure, Particles, Tangent


class HeightFlow(Flow):
    """A flow of pairs (rho, H): rho on `domain`, H a height over each of its points, the mark "H".

    The energy is declared on xi = (H, theta), as for the mu-formulation, and evaluated at the law of
    (H(theta), theta): `Risk(Weighted(phi), x, y, lam)` becomes (survey (3.12), (3.15))

        G(rho, H) = 1/2 sum_j p_j (int H phi(., x_j) drho - y_j)^2 + lam/2 int (H^2 + |theta|^2) drho.

    Other potentials of (H, theta) are added as `Potential`; internal energies act on rho. With V(xi)
    the first variation, s = d_H V (for the risk N + lam H) and g = grad_theta V at frozen H (H grad N + lam
    theta), a system is: does the mass move by -(g + s grad H), the whole gradient, or by -g (`held`);
    and does H ride along or stay in place (`rides`). H moves at -s besides.

    On a torus lam |theta|^2 is no potential: take lam = 0 there, and lam/2 H^2 as a `Potential` on a grid.

    On a `Grid` internal energies move the mass too, by grad U', and where H rides it goes with the whole
    velocity: this is the gradient flow of the regularised G, and keeps its balance. On `Particles` an entropy
    is noise in theta under a height that stays with its particle.
    """

    energy: Energy
    domain: Domain
    held: ClassVar[bool]
    rides: ClassVar[bool]

    def __check_init__(self):
        if not isinstance(self.energy, Energy):
            raise ValueError(f"energy must be an Energy, got {type(self.energy).__name__}")
        if not isinstance(self.domain, Domain):
            raise ValueError(f"domain must be a Domain, got {type(self.domain).__name__}")

    @abstractmethod
    def slope_of_height(self, state: State) -> Float[Array, "K d"] | None:
        """grad H at each particle, `None` where the velocity does not need it."""

    def outer_weights(self, mu: Measure) -> Float[Array, " K"]:
        """The mark "H". **Raises** `ValueError` for a measure without it."""
        height = mu.marks.get("H")
        if height is None or height.ndim != 1:
            raise ValueError(
                f"{type(self).__name__} has its outer weights in the mark 'H', one number a point: give it "
                "by mu.with_marks(H=...)"
            )
        return height

    def lift(self, mu: Measure) -> Particles:
        """The law of xi = (H(theta), theta), on which the energy is evaluated."""
        points = jnp.concatenate([self.outer_weights(mu)[:, None], mu.points], axis=-1)
        return Particles(points, mu.weights)

    def validate(self, mu: Measure) -> None:
        if not isinstance(mu, Measure):
            raise ValueError(f"the initial measure must be Particles or Grid, got {type(mu).__name__}")
        self.domain.validate(mu.points)
        if isinstance(mu, Grid):
            grids.validate(mu, self.domain)
        self._potential_part(mu).validate(self.lift(mu))

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        return State(mu, self._potential_part(mu).init(self.lift(mu)))

    def _potential_part(self, mu: Measure) -> Energy:
        """The terms of the energy that have a potential of xi."""
        return grids.transport_part(self.energy) if isinstance(mu, Grid) else smooth_part(self.energy)

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        energy, lifted = self._potential_part(mu), self.lift(mu)
        solution = energy.solve(lifted, state.carry)
        gradient = energy.gradient_field(lifted, solution)
        by_height, by_point = gradient[:, 0], gradient[:, 1:]
        if isinstance(mu, Grid):
            moving = self._on_grid(mu, energy.first_variation(lifted, solution), by_height, solution.value)
        else:
            moving = self._on_particles(state, by_height, by_point, solution.value)
        tangent, value, dissipation, max_step = moving
        return evaluation(
            tangent,
            value,
            dissipation,
            mu.dtype,
            residual=solution.residual,
            status=solution.status,
            max_step=max_step,
            carry=solution.carry,
        )

    def _on_particles(self, state: State, by_height, by_point, value) -> tuple[Tangent, Any, Any, Any]:
        mu, slope = state.measure, self.slope_of_height(state)
        force = by_point if slope is None else by_point + by_height[:, None] * slope
        velocity = jax.vmap(self.domain.velocity)(mu.points, -force)
        # What the height of a particle gains by moving is a change of H only where H rides.
        felt = jax.vmap(self.domain.project)(mu.points, by_point if self.rides else force)
        dissipation = mu.integrate(by_height**2 - jnp.sum(felt * velocity, axis=-1))
        marks = {"H": -by_height} if self.rides else None
        return Tangent(points=velocity, marks=marks), value, dissipation, jnp.inf

    def _on_grid(self, mu: Grid, variation, by_height, value) -> tuple[Tangent, Any, Any, Any]:
        """Mass by finite volumes; the height where it stands, or riding at the velocity of the mass."""
        height, parts = self.outer_weights(mu), grids.internal_parts(self.energy)
        if self.held:
            drift = grids.partial_slopes(variation, by_height, height, mu)
        else:
            drift = grids.slopes(variation, mu)
        for coefficient, term in parts:
            coefficient = jnp.asarray(coefficient).astype(mu.dtype)
            value = value + coefficient * term.solve(mu).value
            variation = variation + coefficient * term.first_variation(mu)
        rate, max_step = grids.mass_rate(mu, drift, parts)
        rising = -by_height
        if self.rides:
            riding, limit = grids.riding_rate(height, grids.velocity(mu, drift, parts), mu)
            rising, max_step = rising + riding, jnp.minimum(max_step, limit)
        dissipation = -inner(variation, rate) - inner(mu.weights * by_height, rising)
        return Tangent(weights=rate, marks={"H": rising}), value, dissipation, max_step
