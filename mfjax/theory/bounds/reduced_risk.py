"""Algebraic decay of the reduced risk, whatever the regularization strength."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import ScalarLike

from mfjax._numerics.arrays import is_traced, kind, scalar
from mfjax.energies.population_risk import PopulationReducedRisk
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.measures import Measure
from mfjax.theory.bounds.base import Algebraic, check_probability
from mfjax.theory.bounds.convex import checked_norms


def algebraic_decay(
    energy: ReducedRisk | PopulationReducedRisk, mu: Measure, norms: Any, *, mass: ScalarLike = 1.0
) -> Algebraic:
    """The decay of the reduced risk at least like one over time.

    L(mu_t) <= 1 / (1 / L(mu_0) + C t) along the flow of `energy` from `mu`, C = 1 / max_t norms^2.

    - `norms` (S,): |teacher - mu_t| in dot-H^{-1}(mu_t) along the run, as
      `mf.observables.SobolevDistance(teacher)` records it. That they stay bounded is what the theorem
      assumes; here it is measured, so that the bound is one a posteriori.
    - `mass`: that of the teacher, a positive measure with data y = int phi dteacher, at which f must vanish
      with its derivative: 1 for `Quadratic(center=1)`.

    From L <= int f*(s) d(teacher / mass - mu), the convexity of f*, and dL/dt = -int |grad f*(s)|^2 dmu
    follows dL/dt <= -(L / norm)^2, mu being a probability measure. Between two saved times the norm is not
    seen: save often where it changes. C does not depend on lam, and the bound is far from sharp: L falls
    exponentially in the end. Of several outputs each must be that of the same teacher.

    **Raises** `ValueError` for another energy, and for a regularizer whose minimum is not zero at `mass`,
    such as f_b.

    Source: VarPro paper, Theorem 5.1 (its proof gives this C).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> unbiased = mf.regularizers.Quadratic(center=1.0)
    >>> energy = ReducedRisk(mf.features.ReLU(), jnp.eye(2), jnp.ones(2), 0.1, unbiased)
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0]]))
    >>> round(float(algebraic_decay(energy, mu, jnp.array([0.5, 0.4])).constant), 1)
    4.0
    """
    if not isinstance(energy, ReducedRisk | PopulationReducedRisk):
        raise ValueError(f"bounds.algebraic_decay is that of a reduced risk, got {kind(energy)}")
    mass = scalar(mass, "mass", above=0)
    value, slope = energy.regularizer(mass), energy.regularizer.derivative(mass)
    if not is_traced((value, slope)) and max(abs(float(value)), abs(float(slope))) > 1e-6:
        raise ValueError(
            f"f and f' must vanish at the mass {float(mass):g} of the teacher, got {float(value):g} and "
            f"{float(slope):g}: this bound is for Quadratic(center={float(mass):g}) and the like"
        )
    check_probability(mu, "mu")
    return Algebraic(energy(mu), 1 / jnp.max(checked_norms(norms)) ** 2, "Theorem 5.1")
