"""Conservative finite volumes for the Wasserstein gradient flow of an energy."""

from typing import Any

from jaxtyping import Array

from mfjax._numerics.arrays import added, inner
from mfjax.energies.base import Energy
from mfjax.grids.base import Discretization, internal_energy, internal_parts, transport_part
from mfjax.grids.diffusion import Part
from mfjax.grids.evaluation import Evaluation, evaluation
from mfjax.grids.faces import face_slopes
from mfjax.grids.rates import Pairs, linearized, mass_rate
from mfjax.measures import Grid, Tangent


class FiniteVolume(Discretization):
    """Finite volumes: mass moves through the faces of the cells, and none is lost.

    Mass rates of d_t mu = div(mu grad V) from the fluxes through the faces of the cells.

    The energy is that of the cells, and the dissipation -sum_i V_i m_i' is its exact decrease in continuous
    time; it tends to int |grad V|^2 dmu with second order in the spacing, and is never negative except where
    a pressure and a drift, discretized apart, oppose each other. Mass is conserved to rounding. The flux is
    chosen by the energy (`mfjax.grids.rates.mass_rate`). `max_step` is the longest step for which explicit
    transport keeps masses non-negative; diffusion sets no limit here, since only an implicit stepper or
    error control can do without one.

    >>> from mfjax.domains import Interval
    >>> from mfjax.energies import Entropy, Potential
    >>> mu = Grid(Interval(0.0, 1.0), 4, [0.25, 0.25, 0.25, 0.25])
    >>> now = FiniteVolume().evaluate(Potential(lambda x: x[0]) + Entropy(), mu)
    >>> [round(float(rate), 3) for rate in now.tangent.weights]
    [1.0, 0.0, 0.0, -1.0]
    """

    def evaluate(self, energy: Energy, mu: Grid, carry: Any = None) -> Evaluation:
        parts, rest = internal_parts(energy), transport_part(energy)
        solution = rest.solve(mu, carry)
        value, variation = internal_energy(parts, mu)
        potential = drift = None
        if rest.parts():
            potential = rest.first_variation(mu, solution)
            drift, variation = face_slopes(potential, mu), variation + potential
        rate, max_step = mass_rate(mu, drift, parts)
        return evaluation(
            Tangent(weights=rate),
            added(solution.value, value),
            -inner(variation, rate),
            mu.dtype,
            residual=solution.residual,
            status=solution.status,
            max_step=max_step,
            carry=solution.carry,
            potential=potential,
        )

    def diffusion(self, energy: Energy) -> tuple[Part, ...]:
        return internal_parts(energy)

    def linearize(self, energy: Energy, mu: Grid, potential: Array | None) -> Pairs:
        drift = None if potential is None else face_slopes(potential, mu)
        return linearized(mu, drift, internal_parts(energy))
