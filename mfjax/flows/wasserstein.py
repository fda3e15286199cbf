"""The Wasserstein gradient flow of an energy, on particles and on a grid."""

import jax
import jax.numpy as jnp

from mfjax import grids
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Sum
from mfjax.energies.entropy import Entropy
from mfjax.energies.internal import InternalEnergy
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.measures import Grid, Measure, Particles, Tangent


class Wasserstein(Flow):
    """d_t mu = div(mu grad V), V the first variation of `energy` (VarPro paper (23), (27)).

    On `Particles`: x_i' = -grad V(x_i), projected to the tangent space of `domain`; an entropy in the
    energy becomes noise sqrt(2 T) dW and leaves the recorded energy, which is then the smooth part.
    The masses do not move. On a `Grid`: the masses of cells move by `space`, an `mf.grids.Discretisation`,
    conservative finite volumes unless given, with internal energies as diffusion.

    **Raises** `ValueError` for internal energies other than the entropy on particles, which need a
    density estimate, and for points outside the domain.
    """

    energy: Energy
    domain: Domain
    space: grids.Discretisation = grids.FiniteVolume()

    def __check_init__(self):
        if not isinstance(self.energy, Energy):
            raise ValueError(f"energy must be an Energy, got {type(self.energy).__name__}")
        if not isinstance(self.domain, Domain):
            raise ValueError(f"domain must be a Domain, got {type(self.domain).__name__}")
        if not isinstance(self.space, grids.Discretisation):
            raise ValueError(f"space must be an mf.grids.Discretisation, got {type(self.space).__name__}")

    def validate(self, mu: Measure) -> None:
        if not isinstance(mu, Measure):
            raise ValueError(f"the initial measure must be Particles or Grid, got {type(mu).__name__}")
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
        smooth = self._seen(mu)
        solution = smooth.solve(mu, state.carry)
        gradient = smooth.gradient_field(mu, solution)
        velocity = jax.vmap(self.domain.velocity)(mu.points, -gradient)
        slope = jax.vmap(self.domain.project)(mu.points, gradient)
        return evaluation(
            Tangent(points=velocity),
            solution.value,
            -mu.integrate(jnp.sum(slope * velocity, axis=-1)),
            mu.dtype,
            residual=solution.residual,
            status=solution.status,
            carry=solution.carry,
        )


def smooth_part(energy: Energy) -> Energy:
    """The energy without its entropies. **Raises** for other internal energies."""
    smooth = []
    for coefficient, term in energy.parts():
        if isinstance(term, Entropy):
            continue
        if isinstance(term, InternalEnergy):
            raise ValueError(
                f"{type(term).__name__} is a function of the density, which particles do not have: run this "
                "flow on a Grid, or take energies.Blob(energy, width, domain), or Spacings in one dimension"
            )
        smooth.append((coefficient, term))
    if len(smooth) == 1 and energy is smooth[0][1]:
        return energy
    return Sum(tuple(smooth))
