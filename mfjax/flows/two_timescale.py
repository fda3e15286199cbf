"""Two-timescale learning: features and outer weights both move, at rates a factor apart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import inner, scalar
from mfjax.domains import Domain
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.measures import Measure, Particles, Tangent


class TwoTimescale(Flow):
    """omega' = -grad V_u(omega), u' = -(rate / lam) [sum_j p_j phi(omega, x_j) (F(x_j) - y_j) + lam f'(u)].

    V_u(omega) = (u / lam) sum_j p_j phi(omega, x_j) (F(x_j) - y_j) at fixed u, carried by each particle as
    the mark "u". No particle number appears, so padding is harmless. The recorded energy is the risk over
    lam at the current u, and it dissipates at int |grad V_u|^2 dmu + rate int (dR/du / lam)^2 dmu.

    - `energy`: a `ReducedRisk` with lam > 0.
    - `rate` gamma > 0: how much faster the outer weights move. VarPro is gamma -> infinity, with error
      O(1 / gamma). Good values: 1 to 1000.

    One `Euler(tau)` step is the algorithm (III.44) of the thesis, both updates from the old state, with
    gamma = eta / (M tau); the published eta = lam M is `rate = lam / tau`. It is stable only for
    eta < 2 lam M / (lambda_max(K) + lam), that is rate * tau < 2 lam / (lambda_max(K) + lam). This bounds
    the outer weights alone: for small lam the coupled steps can ask for a smaller tau still.

    The mark "u" starts at the exact minimiser for the initial features unless the measure brings one.
    """

    energy: ReducedRisk
    domain: Domain
    gamma: Float[Array, ""]

    def __init__(self, energy: ReducedRisk, domain: Domain, rate: ScalarLike):
        if not isinstance(energy, ReducedRisk):
            raise ValueError(f"TwoTimescale needs a ReducedRisk, got {type(energy).__name__}")
        if not isinstance(domain, Domain):
            raise ValueError(f"domain must be a Domain, got {type(domain).__name__}")
        self.energy = energy
        self.domain = domain
        self.gamma = scalar(rate, "rate", above=0)
        scalar(energy.lam, "the lam of a two-timescale flow", above=0)

    def init(self, mu: Measure) -> State:
        if not isinstance(mu, Particles):
            raise ValueError(
                "TwoTimescale moves an outer weight with each particle and needs Particles, got "
                f"{type(mu).__name__}"
            )
        self.domain.validate(mu.points)
        self.energy.validate(mu, self.domain)
        if "u" not in mu.marks:
            mu = mu.with_marks(u=self.energy.solve(mu).outer_weights)
        return State(mu)

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        u = mu.marks["u"]
        data, f = self.energy.data, self.energy.regularizer
        lam, gamma = self.energy.lam.astype(mu.dtype), self.gamma.astype(mu.dtype)
        features = self.energy.features.matrix(mu.points, data.x)
        error = inner(features, mu.weights * u) - data.y
        dual = data.weights * error

        def potential(point, weight):
            row = jax.vmap(self.energy.features, in_axes=(None, 0))(point, data.x)
            return weight * inner(row, dual) / lam

        gradient = jax.vmap(jax.grad(potential))(mu.points, u)
        velocity = jax.vmap(self.domain.velocity)(mu.points, -gradient)
        slope = jax.vmap(self.domain.project)(mu.points, gradient)
        outer_slope = inner(dual, features) / lam + f.derivative(u)
        energy = 0.5 * inner(data.weights, error**2) / lam + mu.integrate(f(u))
        dissipation = mu.integrate(-jnp.sum(slope * velocity, axis=-1) + gamma * outer_slope**2)
        tangent = Tangent(points=velocity, marks={"u": -gamma * outer_slope})
        return evaluation(tangent, energy, dissipation, mu.dtype)
