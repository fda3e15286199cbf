"""What the three (rho, H) systems share: a network whose outer weight is a height over each feature."""

from abc import abstractmethod
from itertools import filterfalse
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax import grids
from mfjax._numerics.arrays import added, along, inner, over_outputs, pairing
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Sum
from mfjax.energies.entropy import Entropy
from mfjax.energies.internal import DensityEstimate
from mfjax.features import Weighted
from mfjax.flows.base import Evaluation, Flow, State, evaluation, require_measure
from mfjax.flows.wasserstein import smooth_part
from mfjax.grids.diffusion import Part
from mfjax.grids.rates import Pairs
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

    Where a system allows `several`, a network of c outputs (`Weighted(phi, outputs=c)`) has H in R^c, the
    mark (K, c), and s grad H is a sum over them.

    On a torus lam |theta|^2 is no potential: take lam = 0 there, and lam/2 H^2 as a `Potential` on a grid.

    Internal energies regularize rho (survey, Remark 4.1): they move the mass too, by grad U', and where H
    rides it goes with the whole velocity. This is the gradient flow of the regularized G and keeps its
    balance; the survey adds the diffusion of rho alone and leaves the equation of H. On `Particles`, too,
    `Spacings` and `Blob` act on rho. An entropy is noise in theta where H is a field; where H rides, noise
    would be another system, and is refused (`PropagationOfChaos(..., noise=T)` is that other system).
    """

    energy: Energy
    domain: Domain
    held: ClassVar[bool]
    rides: ClassVar[bool]
    # Whether a point may have several heights, those of a network of several outputs.
    several: ClassVar[bool] = False

    @abstractmethod
    def slope_of_height(self, state: State) -> Float[Array, "K d"] | None:
        """grad H at each particle, `None` where the velocity does not need it."""

    def outer_weights(self, mu: Measure) -> Float[Array, "K *c"]:
        """The mark "H". **Raises** `ValueError` for a measure without it."""
        height = mu.marks.get("H")
        if height is None or height.ndim > 1 + self.several:
            each = "one number or c of them" if self.several else "one number"
            raise ValueError(
                f"{type(self).__name__} has its outer weights in the mark 'H', {each} a point: give it "
                "by mu.with_marks(H=...)"
            )
        return height

    def lift(self, mu: Measure) -> Particles:
        """The law of xi = (H(theta), theta), on which the energy is evaluated."""
        points = jnp.concatenate([self.outer_weights(mu).reshape(mu.size, -1), mu.points], axis=-1)
        return Particles(points, mu.weights)

    def validate(self, mu: Measure) -> None:
        require_measure(mu)
        for _, term in self.energy.parts():
            features = getattr(term, "features", None)
            if not isinstance(features, Weighted):
                continue
            if features.outputs is not None and not self.several:
                raise ValueError(
                    f"{type(self).__name__} has one height at a point, got "
                    f"Weighted(outputs={features.outputs}): take flows.PropagationOfChaos, or "
                    "flows.Wasserstein on points (w, theta)"
                )
            shape = (mu.size,) if features.outputs is None else (mu.size, features.outputs)
            if self.outer_weights(mu).shape != shape:
                raise ValueError(
                    f"the mark 'H' of Weighted(outputs={features.outputs}) has shape {shape}, got "
                    f"{self.outer_weights(mu).shape}"
                )
        self.domain.validate(mu.points)
        if isinstance(mu, Grid):
            grids.require_grid(mu, self.domain)
        elif self.rides and any(isinstance(term, Entropy) for _, term in self.energy.parts()):
            raise ValueError(
                f"{type(self).__name__} + Entropy carries H along with the whole velocity of rho, diffusion "
                "included, and a particle that noise moves would take its H elsewhere: use a Grid, or "
                "take energies.Spacings(Entropy(), domain) or energies.Blob(Entropy(), width, domain); noise "
                "that does so is PropagationOfChaos(..., noise=T)"
            )
        of_pairs, of_rho = self._parts(mu)
        of_pairs.validate(self.lift(mu))
        of_rho.validate(mu, self.domain)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        of_pairs, of_rho = self._parts(mu)
        return State(mu, (of_pairs.init(self.lift(mu)), of_rho.init(mu)))

    def _parts(self, mu: Measure) -> tuple[Energy, Energy]:
        """The terms that have a potential of xi, and those of the density of rho that particles estimate."""
        smooth = grids.transport_part(self.energy) if isinstance(mu, Grid) else smooth_part(self.energy)
        estimates = lambda part: isinstance(part[1], DensityEstimate)
        return Sum(tuple(filterfalse(estimates, smooth.parts()))), Sum(
            tuple(filter(estimates, smooth.parts()))
        )

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        (energy, of_rho), lifted = self._parts(mu), self.lift(mu)
        before, before_of_rho = (None, None) if state.carry is None else state.carry
        solution = energy.solve(lifted, before)
        gradient = energy.gradient_field(lifted, solution)
        by_height, by_point = jnp.split(gradient, [lifted.points.shape[1] - mu.points.shape[1]], axis=1)
        by_height = by_height.reshape(self.outer_weights(mu).shape)
        potential, value, carry = None, solution.value, before_of_rho
        if isinstance(mu, Grid):
            potential = energy.first_variation(lifted, solution)
            moving = self._on_grid(mu, potential, by_height, value)
        else:
            if of_rho.parts():
                estimated = of_rho.solve(mu, before_of_rho)
                value, carry = added(value, estimated.value), estimated.carry
                by_point = by_point + of_rho.gradient_field(mu, estimated)
            moving = self._on_particles(state, by_height, by_point, value)
        tangent, value, dissipation, max_step = moving
        return evaluation(
            tangent,
            value,
            dissipation,
            mu.dtype,
            residual=solution.residual,
            status=solution.status,
            max_step=max_step,
            carry=(solution.carry, carry),
            potential=potential,
        )

    def diffusion(self, mu: Measure) -> tuple[Part, ...]:
        return grids.internal_parts(self.energy) if isinstance(mu, Grid) else ()

    def linearize(self, state: State, now: Evaluation) -> Pairs:
        """The diffusion of mass; its drift too, where it is a gradient."""
        mu = cast(Grid, state.measure)
        drift = None if self.held or now.potential is None else grids.face_slopes(now.potential, mu)
        return grids.linearized(mu, drift, self.diffusion(mu))

    def _on_particles(self, state: State, by_height, by_point, value) -> tuple[Tangent, Any, Any, Any]:
        mu, slope = state.measure, self.slope_of_height(state)
        force = by_point if slope is None else by_point + by_height[:, None] * slope
        velocity = jax.vmap(self.domain.velocity)(mu.points, -force)
        # What the height of a particle gains by moving is a change of H only where H rides.
        felt = jax.vmap(self.domain.project)(mu.points, by_point if self.rides else force)
        dissipation = mu.integrate(over_outputs(by_height**2) - jnp.sum(felt * velocity, axis=-1))
        marks = {"H": -by_height} if self.rides else None
        return Tangent(points=velocity, marks=marks), value, dissipation, jnp.inf

    def _on_grid(self, mu: Grid, variation, by_height, value) -> tuple[Tangent, Any, Any, Any]:
        """Mass by finite volumes; the height where it stands, or riding at the velocity of the mass."""
        height, parts = self.outer_weights(mu), grids.internal_parts(self.energy)
        if self.held:
            drift = grids.partial_slopes(variation, by_height, height, mu)
        else:
            drift = grids.face_slopes(variation, mu)
        of_density, varied = grids.internal_energy(parts, mu)
        value, variation = added(value, of_density), variation + varied
        rate, max_step = grids.mass_rate(mu, drift, parts)
        rising = -by_height
        if self.rides:
            riding, limit = grids.riding_rate(height, grids.face_velocities(mu, drift, parts), mu)
            rising, max_step = rising + riding, jnp.minimum(max_step, limit)
        dissipation = -inner(variation, rate) - pairing(along(mu.weights, by_height) * by_height, rising)
        return Tangent(weights=rate, marks={"H": rising}), value, dissipation, max_step
