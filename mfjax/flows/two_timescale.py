"""Two-timescale learning: features and outer weights both move, at rates a factor apart."""

from math import prod

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, scalar, shown
from mfjax.domains import Domain, Noiseless, Product
from mfjax.energies.base import Energy, Sum
from mfjax.energies.internal import InternalEnergy
from mfjax.energies.pairs import Marginal, Unreduced
from mfjax.energies.reduced import Reduced
from mfjax.flows.outer_weights import Drive, OuterWeightFlow
from mfjax.flows.wasserstein import Wasserstein


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
    - `outer_temperature` T_u >= 0 of noise sqrt(2 gamma T_u) dB on the outer weights; none unless given.

    On `Particles` or on a `Grid`, where u rides with the mass: d_t mu = div(mu u_held grad V_1),
    d_t u + v . grad u = u' with v = -grad V_u, as (3.23) of the survey for its (rho, H). With noise on the
    features u is no function of omega any more, and the density is one of pairs: that of `of_pairs`.

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

    def of_pairs(self, outer: Domain) -> Wasserstein:
        """The flow of the law of pairs (v, omega), v = u / sqrt(gamma), a density in spite of noise.

        d_t rho = div(rho grad V) + T Laplacian_omega rho, V(v, omega) = f(u) - u . s(omega): noise on omega
        alone. With an `outer_temperature`, which must be the T of the features, the Laplacian is in both.

        - `outer`: the domain of v, of as many coordinates as there are outputs. On a grid `Interval(-a, a)`,
          wide enough that no mass comes near its walls; for particles `Euclidean(1)`.

        Its points are (v, omega), on `Product(outer, domain)`, or on `Product(Noiseless(outer), domain)` if v
        is not noisy: then it is no gradient flow, and its energy may rise. Terms beside the risk see omega
        alone. Its particles are those of this flow, with u as a coordinate.

        **Raises** `ValueError` for an `outer` of another dimension, and for T_u other than T, as far as these
        are known; where they are traced it takes them to be equal.

        >>> import jax.numpy as jnp, mfjax as mf
        >>> bump = mf.features.Function(lambda omega, x: jnp.exp(-(omega[0] - x[0]) ** 2))
        >>> risk = mf.energies.ReducedRisk(bump, [[0.0], [1.0]], [1.0, 0.5], lam=0.5)
        >>> line = mf.domains.Interval(0.0, 1.0)
        >>> noisy = TwoTimescale(risk + 0.1 * mf.energies.Entropy(), line, rate=4.0)
        >>> pairs = noisy.of_pairs(mf.domains.Interval(-2.0, 2.0))
        >>> mf.measures.Grid.uniform(pairs.domain, (8, 4)).noiseless
        (0,)
        """
        risk, temperature = self._terms()[1], self.energy.temperature
        columns = prod(risk.outputs)
        if not isinstance(outer, Domain) or outer.ambient != columns:
            raise ValueError(
                f"outer must be a Domain of {columns} coordinates, one for each output, got {shown(outer)}"
            )
        noise = self.outer_temperature
        numbers = (
            () if noise is None or is_traced((noise, temperature)) else (float(noise), float(temperature))
        )
        if noise is None or 0.0 in numbers[:1]:
            outer = Noiseless(outer)
        elif numbers and not np.isclose(*numbers, rtol=1e-6):
            raise ValueError(
                "outer weights of temperature {:g} and features of {:g}: pairs have a flow where both are "
                "the same, or where outer weights have none".format(*numbers)
            )

        def lifted(term: Energy) -> Energy:
            if isinstance(term, Reduced):
                return Unreduced(term, jnp.sqrt(self.gamma))
            return term if isinstance(term, InternalEnergy) else Marginal(term, columns)

        terms = tuple((factor, lifted(term)) for factor, term in self.energy.parts())
        return Wasserstein(Sum(terms), Product(outer, self.domain))
