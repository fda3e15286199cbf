"""Two-timescale learning: features and outer weights both move, at rates a factor apart."""

from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import scalar
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.outer_weights import Drive, OuterWeightFlow


class TwoTimescale(OuterWeightFlow):
    """Gradient descent on features and outer weights at once, the weights faster by a factor.

    omega' = -grad V_u(omega), u' = -(rate / lam) [sum_j p_j phi(omega, x_j) (F(x_j) - y_j) + lam f'(u)].

    V_u(omega) = (u / lam) sum_j p_j phi(omega, x_j) (F(x_j) - y_j) at fixed u, carried by each particle as
    the mark "u", (M,) or (M, c) for c outputs, over which V_u is a sum. No particle number appears, so
    padding is harmless. The recorded energy is the risk over lam at the current u, and it dissipates at
    int |grad V_u|^2 dmu + rate int |dR/du / lam|^2 dmu.

    - `energy`: a `ReducedRisk` or `PopulationReducedRisk` with lam > 0, and other terms of the features:
      `OuterWeightFlow` says which.
    - `rate` gamma > 0: how much faster the outer weights move. VarPro is gamma -> infinity, with error
      O(1 / gamma). Good values: 1 to 1000.
    - `outer_temperature` T_u >= 0 of noise sqrt(2 gamma T_u) dB on the outer weights; none unless given. With
      T * Entropy() in the energy and T_u = T the law of (u / sqrt(gamma), omega) follows a Wasserstein flow.

    On `Particles` or on a `Grid`, where u rides with the mass: d_t mu = div(mu u_held grad V_1),
    d_t u + v . grad u = u' with v = -grad V_u, as (3.23) of the survey for its (rho, H).

    One `Euler(tau)` step is the algorithm (III.44) of the thesis, both updates from the old state, with
    gamma = eta / (M tau); the published eta = lam M is `rate = lam / tau`. It is stable only for
    eta < 2 lam M / (lambda_max(K) + lam), that is rate * tau < 2 lam / (lambda_max(K) + lam). This bounds
    the outer weights alone: for small lam the coupled steps can ask for a smaller tau still.

    **Raises** `ValueError` for energies without one reduced risk, lam = 0, and noise on a `Grid`.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> x, y = jnp.array([[1.0, 1.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
    >>> energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, y, lam=0.1)
    >>> flow = TwoTimescale(energy, mf.domains.Sphere(1), rate=10.0)
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.01), steps=10)
    >>> bool(run.observables["energy"][-1] < run.observables["energy"][0])
    True
    """

    energy: Energy
    domain: Domain
    gamma: Float[Array, ""]
    outer_temperature: Float[Array, ""] | None

    def __init__(
        self,
        energy: Energy,
        domain: Domain,
        rate: ScalarLike,
        *,
        outer_temperature: ScalarLike | None = None,
    ):
        self.energy = energy
        self.domain = domain
        self.gamma = scalar(rate, "rate", above=0)
        noise = outer_temperature
        self.outer_temperature = None if noise is None else scalar(noise, "outer_temperature", minimum=0)

    @property
    def mark_temperatures(self):
        return {} if self.outer_temperature is None else {"u": self.gamma * self.outer_temperature}

    def drive(self, risk, mu, score, outer_slope, carry):
        return Drive(mu.marks["u"], score, -self.gamma.astype(mu.dtype) * outer_slope)
