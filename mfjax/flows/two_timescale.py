"""Two-timescale learning: features and outer weights both move, at rates a factor apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import Prepared, along, known, pairing, scalar
from mfjax.domains import Domain
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.measures import Measure, Particles, Tangent


class FirstSolve(eqx.Module):
    """The residual and status of the solve for the first outer weights, and what the features `prepared`."""

    prepared: Prepared
    residual: Float[Array, ""]
    status: Int[Array, ""]


class TwoTimescale(Flow):
    """Gradient descent on features and outer weights at once, the weights faster by a factor.

    omega' = -grad V_u(omega), u' = -(rate / lam) [sum_j p_j phi(omega, x_j) (F(x_j) - y_j) + lam f'(u)].

    V_u(omega) = (u / lam) sum_j p_j phi(omega, x_j) (F(x_j) - y_j) at fixed u, carried by each particle as
    the mark "u", (M,) or (M, c) for c outputs, over which V_u is a sum. No particle number appears, so
    padding is harmless. The recorded energy is the risk over lam at the current u, and it dissipates at
    int |grad V_u|^2 dmu + rate int |dR/du / lam|^2 dmu.

    - `energy`: a `ReducedRisk` with lam > 0.
    - `rate` gamma > 0: how much faster the outer weights move. VarPro is gamma -> infinity, with error
      O(1 / gamma). Good values: 1 to 1000.

    One `Euler(tau)` step is the algorithm (III.44) of the thesis, both updates from the old state, with
    gamma = eta / (M tau); the published eta = lam M is `rate = lam / tau`. It is stable only for
    eta < 2 lam M / (lambda_max(K) + lam), that is rate * tau < 2 lam / (lambda_max(K) + lam). This bounds
    the outer weights alone: for small lam the coupled steps can ask for a smaller tau still.

    The mark "u" starts at the exact minimizer for the initial features unless the measure brings one.
    """

    energy: ReducedRisk
    domain: Domain
    gamma: Float[Array, ""]

    def __init__(self, energy: ReducedRisk, domain: Domain, rate: ScalarLike):
        if not isinstance(energy, ReducedRisk):
            raise ValueError(f"TwoTimescale needs a ReducedRisk, got {type(energy).__name__}")
        self.energy = energy
        self.domain = domain
        self.gamma = scalar(rate, "rate", above=0)
        scalar(energy.lam, "the lam of a two-timescale flow", above=0)

    def validate(self, mu: Measure) -> None:
        if not isinstance(mu, Particles):
            raise ValueError(
                "TwoTimescale moves an outer weight with each particle and needs Particles, got "
                f"{type(mu).__name__}"
            )
        super().validate(mu)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        prepared = Prepared(None if self.random else self.energy.prepare(mu))
        if "u" in mu.marks:
            return State(mu, FirstSolve(prepared, jnp.zeros((), mu.dtype), jnp.asarray(codes.OK, jnp.int32)))
        solution = self.energy.solve(mu)
        residual, status = jnp.asarray(solution.residual, mu.dtype), jnp.asarray(solution.status, jnp.int32)
        start = mu.with_marks(u=known(solution.outer_weights).astype(mu.dtype))
        return State(start, FirstSolve(prepared, residual, status))

    def outer_weights(self, mu):
        """The mark "u". **Raises** `ValueError` for a measure without it."""
        if "u" not in getattr(mu, "marks", {}):
            raise ValueError("a TwoTimescale network has its outer weights in the mark 'u': none is there")
        return mu.marks["u"]

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        u = self.outer_weights(mu)
        data, f, first = self.energy.data, self.energy.regularizer, state.carry
        lam, gamma = self.energy.lam.astype(mu.dtype), self.gamma.astype(mu.dtype)
        prepared = None if first is None else first.prepared.value
        operator = lambda points: data.operator(self.energy.features, points, prepared)
        target = (along(jnp.sqrt(data.weights), data.y) * data.y).astype(mu.dtype)
        error = operator(mu.points).output(along(mu.weights, u) * u) - target
        # sum_j p_j phi(omega, x_j) (F(x_j) - y_j) at all particles, and its gradient times u / lam.
        forces, pull = jax.vjp(lambda points: operator(points).scores(error), mu.points)
        (gradient,) = pull((u / lam).astype(forces.dtype))
        velocity = jax.vmap(self.domain.velocity)(mu.points, -gradient)
        slope = jax.vmap(self.domain.project)(mu.points, gradient)
        outer_slope = (forces / lam + f.derivative(u)).astype(mu.dtype)
        energy = 0.5 * pairing(error, error) / lam + jnp.sum(mu.integrate(f(u)))
        dissipation = mu.integrate(-jnp.sum(slope * velocity, axis=-1)) + gamma * jnp.sum(
            mu.integrate(outer_slope**2)
        )
        tangent = Tangent(points=velocity, marks={"u": -gamma * outer_slope})
        residual, status = (0.0, codes.OK) if first is None else (first.residual, first.status)
        return evaluation(
            tangent, energy, dissipation, mu.dtype, residual=residual, status=status, carry=first
        )
