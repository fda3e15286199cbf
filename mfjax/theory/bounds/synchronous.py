"""How fast copies of a noisy system under the same noise draw together, and from which noise on they do."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import inner, kind, known, scalar
from mfjax.flows.base import Flow
from mfjax.flows.wasserstein import Wasserstein, smooth_part
from mfjax.measures import Particles
from mfjax.theory.spectrum import linearize


def contraction_rate(flow: Flow, measures: Particles) -> Float[Array, ""]:
    """The rate at which synchronous copies of Langevin dynamics draw together.

    The greatest r with d/dt |X - Y|^2 <= -2 r |X - Y|^2 for neighboring copies X, Y under one noise.

    |X - Y|^2 = sum_i m_i |X_i - Y_i|^2. The noise cancels, and what is left is the least eigenvalue of the
    Hessian of the smooth part of the energy in the mass-weighted product: that of `linearize`, here at
    particles that need not be at rest. Where it holds along the segments between two copies, and those of
    their runs, the copies and with them the laws obey W_2(m_t, m'_t) <= e^{-r t} W_2(m_0, m'_0), m' = m*
    included.

    - `measures`: `Particles`, or those of a run, `run.measures`, whose points are (S, M, d): the least
      rate at any of them. Only those are seen: the rate for all is at most this.

    **Raises** `ValueError` for another flow than `Wasserstein`, grids, and domains that are not flat, on
    which copies under one noise need a transport of it.

    Source: slides, Theorem 4 (K. Hu, A. Kazeykina, Z. Ren, "Mean-field Langevin system, optimal control and
    deep neural networks" (2019); A. Eberle, A. Guillin, R. Zimmer, Trans. Amer. Math. Soc. 371 (2019)
    7135-7173).

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2)) + 0.5 * mf.energies.Entropy()
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> round(float(contraction_rate(flow, Particles(jnp.array([[0.0], [3.0]])))), 6)
    2.0
    """
    if not isinstance(flow, Wasserstein) or not isinstance(measures, Particles):
        raise ValueError(
            "synchronous copies are those of particles under a Wasserstein flow, got "
            f"{kind(measures)} under {kind(flow)}"
        )
    if flow.domain.ambient != flow.domain.dim or not flow.domain.euclidean:
        raise ValueError(f"copies under one noise are compared on flat domains, got {flow.domain!r}")
    smooth = Wasserstein(smooth_part(flow.energy), flow.domain)
    every = measures.points.reshape(-1, *measures.points.shape[-2:])
    weights = measures.weights.reshape(-1, every.shape[1])
    return jnp.min(jnp.stack([_rate(smooth, Particles(x, m)) for x, m in zip(every, weights, strict=True)]))


def _rate(flow: Flow, mu: Particles) -> Float[Array, ""]:
    """The least rate of modes that have mass: |X - Y| does not see particles without."""
    found = linearize(flow, mu, tolerance=None)
    squares = jnp.sum(known(found.modes.points) ** 2, axis=-1)
    seen = inner(squares, mu.weights) > 1e-3 * jnp.sum(jnp.where(mu.weights > 0, 0, squares), axis=-1)
    return jnp.min(jnp.where(seen, found.rates, jnp.inf))


class Threshold(NamedTuple):
    """A bracket of the least noise that contracts: `low` does not, `high` does, at the `rates` of the two."""

    low: float
    high: float
    rates: tuple[float, float]


def contraction_threshold(
    make: Callable[[float], Flow],
    measures: Particles | Callable[[float], Particles],
    low: ScalarLike,
    high: ScalarLike,
    *,
    rtol: float = 1e-3,
) -> Threshold:
    """The least noise from which on synchronous copies draw together, in a bracket.

    Bisection for the zero of sigma -> `contraction_rate(make(sigma), measures)` between `low` and `high`.

    - `make(sigma)`: the flow, such as that of F + sigma^2 / 2 (Entropy + Potential(U)) for mean-field
      Langevin dynamics confined by U.
    - `measures`: as for `contraction_rate`, or a function of sigma, such as one that runs `make(sigma)`.
    - `rtol`: width of the bracket relative to its upper end.

    Theorem 4 of the slides says that there is such a sigma. With F of Hessian >= -L in the product of
    copies and U of Hessian >= kappa it lies at or below (2 L / kappa)^{1/2}: the rate is at least sigma^2
    kappa / 2 - L.

    **Raises** `ValueError` where the rate is positive at `low` or not at `high`.

    >>> import mfjax as mf
    >>> hill, well = (mf.energies.Potential(lambda x, s=s: 0.5 * s * jnp.sum(x**2)) for s in (-1.0, 2.0))
    >>> line = mf.domains.Euclidean(1)
    >>> make = lambda sigma: mf.flows.Wasserstein(hill + sigma**2 / 2 * (well + mf.energies.Entropy()), line)
    >>> found = contraction_threshold(make, Particles(jnp.zeros((2, 1))), 0.1, 3.0)
    >>> found.low < 1.0 < found.high
    True
    """
    low, high = float(scalar(low, "low", minimum=0)), float(scalar(high, "high", above=0))
    at = measures if callable(measures) else lambda sigma: measures
    rate = lambda sigma: float(contraction_rate(make(sigma), at(sigma)))
    rates, rtol = [rate(low), rate(high)], float(scalar(rtol, "rtol", above=0))
    if not rates[0] <= 0 < rates[1]:
        raise ValueError(
            f"the rate must change its sign between {low:g} and {high:g}, where it is {rates[0]:g} "
            f"and {rates[1]:g}: take other ends"
        )
    while high - low > rtol * high:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        found = rate(middle)
        if found > 0:
            high, rates[1] = middle, found
        else:
            low, rates[0] = middle, found
    return Threshold(low, high, (rates[0], rates[1]))
