"""Variable projection whose outer weights are averaged over the steps of a run."""

from typing import ClassVar

from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, known, scalar
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.outer_weights import Drive, OuterWeightFlow, prepared_in


class OuterMomentum(OuterWeightFlow):
    """Variable projection of batches with outer weights that remember those of earlier batches.

    omega' = -grad V_U(omega), u' = (U - u) / dt, U = m u + (1 - m) u*(mu), u* the optimal outer weights.

    With `Euler(dt)` this is the algorithm (III.46) of the thesis: u becomes U, the mean of the projections on
    the batches so far, of weights that fall by m a step, and the features follow the risk of the batch at U.
    u* and V are those of the batch that the step sees (`batches=` of the energy). m = 0 is
    variable projection of the batch alone. The outer weights of a batch fit it better than all data, so that
    the features move otherwise than under the flow of all data, also in the mean: the more so, the smaller
    the batch and lam are, and less with m near one, where u lags behind by 1 / (1 - m) steps instead.

    The mark "u" starts at the optimum of all data unless the measure brings one. The recorded energy is the
    risk over lam of all data at the mark; it may rise.

    - `energy`: a `ReducedRisk` or `PopulationReducedRisk` with lam > 0, and other terms of the features:
      `OuterWeightFlow` says which.
    - `momentum` m in [0, 1). **Good values**: 0.9 (thesis III.6.2).
    - `dt`: the step of the stepper, in flow time. Other steppers than `Euler` follow the equation above.

    **Raises** `ValueError` for m outside [0, 1), dt <= 0, energies without one reduced risk, and lam = 0.

    >>> import jax.numpy as jnp, jax.random as jr, mfjax as mf
    >>> x = jr.normal(jr.key(0), (64, 2))
    >>> batches = mf.energies.Batches(16)
    >>> energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, jnp.abs(x[:, 0]), 0.1, batches=batches)
    >>> flow = OuterMomentum(energy, mf.domains.Sphere(1), momentum=0.9, dt=0.01)
    >>> mu = mf.measures.Particles.sample(flow.domain, jr.key(1), 8)
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.01), steps=40, key=jr.key(2))
    >>> bool(run.observables["energy"][-1] < run.observables["energy"][0])
    True
    """

    energy: Energy
    domain: Domain
    momentum: Float[Array, ""]
    dt: Float[Array, ""]
    monotone: ClassVar[bool] = False

    def __init__(self, energy: Energy, domain: Domain, momentum: ScalarLike, dt: ScalarLike):
        self.energy, self.domain = energy, domain
        self.momentum, self.dt = scalar(momentum, "momentum", minimum=0), scalar(dt, "dt", above=0)
        if not is_traced(self.momentum) and float(self.momentum) >= 1:
            raise ValueError(f"momentum must be less than 1, got {float(self.momentum):g}")

    def _memory(self, mu):
        return self._terms()[1].init(mu)

    def drive(self, risk, mu, score, outer_slope, carry):
        u, momentum = mu.marks["u"], self.momentum.astype(mu.dtype)
        solution = risk.solve(mu, None if carry is None else carry.outer)
        change = (1 - momentum) * (known(solution.outer_weights).astype(mu.dtype) - u)
        used = u + change
        there = risk.at_weights(mu, used, prepared_in(carry))[1]
        return Drive(used, there, change / self.dt.astype(mu.dtype), solution)
