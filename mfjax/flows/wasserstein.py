"""The Wasserstein gradient flow of an energy, on particles and on a grid."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from mfjax import grids
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Solution, solved
from mfjax.energies.entropy import Entropy
from mfjax.flows.base import Evaluation, Flow, State, evaluation, require_measure
from mfjax.grids.diffusion import Part
from mfjax.grids.rates import Pairs
from mfjax.measures import Grid, Measure, Particles, Tangent


class Wasserstein(Flow):
    """The Wasserstein gradient flow of an energy: every particle goes down the potential.

    d_t mu = div(mu grad V), V the first variation of `energy` (VarPro paper (23), (27)).

    On `Particles`: x_i' = -grad V(x_i), projected to the tangent space of `domain`; an entropy in the
    energy becomes noise sqrt(2 T) dW and leaves the recorded energy, which is then the smooth part.
    The masses do not move. On a `Grid`: the masses of cells move by `space`, an `mf.grids.Discretization`,
    conservative finite volumes unless given, with internal energies as diffusion.

    Factors of the domain that are `domains.Frozen` keep their coordinates, and the masses at each of them.

    **Raises** `ValueError` for internal energies other than the entropy on particles, which need a
    density estimate, for points outside the domain, and for a domain all of which is frozen.
    """

    energy: Energy
    domain: Domain
    space: grids.Discretization = grids.FiniteVolume()

    def __check_init__(self):
        check_space(self.space)

    def validate(self, mu: Measure) -> None:
        require_measure(mu)
        if not self.domain.tangent_dim:
            raise ValueError(
                f"nothing moves on {self.domain!r}: leave a factor of it free, or let masses grow, by "
                "flows.WassersteinFisherRao"
            )
        self.domain.validate(mu.points)
        if isinstance(mu, Grid):
            self.space.validate(self.energy, mu, self.domain)
        self._seen(mu).validate(mu, self.domain)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        if isinstance(mu, Grid):
            return State(mu, self.space.init(self.energy, mu))
        return State(mu, self._seen(mu).init(mu))

    def _seen(self, mu: Measure) -> Energy:
        """The energy whose value is recorded: without the entropies that are noise on particles."""
        return smooth_part(self.energy) if isinstance(mu, Particles) else self.energy

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        if isinstance(mu, Grid):
            return self.space.evaluate(self.energy, mu, state.carry)
        return descent(self._seen(mu), self.domain, cast(Particles, mu), state.carry)[0]

    def diffusion(self, mu: Measure) -> tuple[Part, ...]:
        return self.space.diffusion(self.energy) if isinstance(mu, Grid) else ()

    def linearize(self, state: State, now: Evaluation) -> Pairs:
        return self.space.linearize(self.energy, cast(Grid, state.measure), now.potential)


def check_space(space: Any) -> None:
    """**Raises** `ValueError` unless `space` is a discretization."""
    if not isinstance(space, grids.Discretization):
        raise ValueError(f"space must be an mf.grids.Discretization, got {type(space).__name__}")


def descent(
    energy: Energy, domain: Domain, mu: Particles, carry: Any, mobility: Any = 1.0
) -> tuple[Evaluation, Solution]:
    """x_i' = -mobility grad V(x_i), tangent to `domain`, and the solution of the energy behind it."""
    solution = solved(energy, mu, carry)
    gradient = energy.gradient_field(mu, solution)
    velocity = jax.vmap(domain.velocity)(mu.points, -mobility * gradient)
    slope = jax.vmap(domain.project)(mu.points, gradient)
    now = evaluation(
        Tangent(points=velocity),
        solution.value,
        -mu.integrate(jnp.sum(slope * velocity, axis=-1)),
        mu.dtype,
        residual=solution.residual,
        status=solution.status,
        carry=solution.carry,
    )
    return now, solution


def smooth_part(energy: Energy) -> Energy:
    """The energy without its entropies. **Raises** for other internal energies."""
    for _, term in grids.internal_parts(energy):
        if not isinstance(term, Entropy):
            raise ValueError(
                f"{type(term).__name__} is a function of the density, which particles do not have: run this "
                "flow on a Grid, or take energies.Blob(energy, width, domain), or Spacings in one dimension"
            )
    return grids.transport_part(energy)
