"""Exponential decay of the free energy along Langevin dynamics, from a log-Sobolev inequality."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, scalar
from mfjax._numerics.compiled import compiled
from mfjax.domains import Domain, require_domain
from mfjax.energies.base import Energy
from mfjax.measures import Grid
from mfjax.theory.bounds.base import Exponential, Integrated


def entropy_decay(initial: ScalarLike, temperature: ScalarLike, constant: ScalarLike) -> Exponential:
    """The exponential decay of the free energy of mean-field Langevin dynamics.

    F(m_t) - F(m*) <= e^{-2 rho T t} (F(m_0) - F(m*)) for d_t m = div(m grad V) + T Laplacian m.

    F = F_0 + T Entropy with F_0 convex in m and V its first variation; `constant` rho is a log-Sobolev
    constant (`log_sobolev`) of the laws proportional to e^{-V / T} along the flow. For F_0 linear the gap is
    T times the relative entropy KL(m_t | m*), which obeys the same bound, and one law matters, m*. In the
    linear Gaussian case the rate 2 rho T is twice the stiffness k, and sharp for the continuous flow; on
    cells of size h it is smaller, 2 k (1 - h^2 k / (6 T)) to this order, and a curve that attains the bound
    may pass it by as much.

    - `initial`: F(m_0) - F(m*), or KL(m_0 | m*) where F_0 is linear.

    Source: slides, "mean-field Langevin" (the log-Sobolev inequality as a Polyak-Lojasiewicz inequality);
    A. Nitanda, D. Wu, T. Suzuki (AISTATS 2022) and L. Chizat (TMLR 2022) for F_0 convex.

    >>> float(entropy_decay(1.0, 0.5, 4.0).rate)
    4.0
    """
    temperature = scalar(temperature, "temperature", above=0)
    return Exponential(initial, 2 * temperature * scalar(constant, "constant", minimum=0), "log-Sobolev")


def entropy_decay_along(
    initial: ScalarLike,
    temperature: ScalarLike,
    times: Any,
    measures: Grid,
    bounded: Energy,
    *,
    convexity: ScalarLike = 0.0,
    domain: Domain | None = None,
) -> Integrated:
    """The decay of `entropy_decay` with the constants of the measures that a run has met.

    `entropy_decay` with the log-Sobolev constants of e^{-V / T} at the measures of a run.

    F(m_t) - F(m*) <= e^{-2 T int rho_s ds} (F(m_0) - F(m*)), V = U + B the first variation of F_0 at m_s:
    an oscillation known in advance bounds that of every measure, one along the run that of the few it meets.

    - `times` (S,) from 0 and `measures`, as a run has them: a grid whose weights are (S, K).
    - `bounded`: the part of F_0 whose first variation is B; its oscillation over the cells is measured.
      `convexity` of the rest U, and `domain`, as for `log_sobolev`.

    A bound a posteriori, and on the cells: between two saved times the smaller constant counts.

    **Raises** `ValueError` as `log_sobolev` does, and for measures that are not those of a run on a grid.

    Source: as for `entropy_decay`.

    >>> import mfjax as mf
    >>> box = mf.domains.Interval(-1.0, 1.0)
    >>> rest, tilt = 0.5 * mf.energies.Entropy(), mf.energies.Potential(lambda x: x[0])
    >>> flow = mf.flows.Wasserstein(rest + tilt, box)
    >>> run = mf.simulate(flow, Grid.uniform(box, 32), save_at=[0.1, 0.2])
    >>> bound = entropy_decay_along(1.0, 0.5, run.times, run.measures, tilt, domain=box)
    >>> bool(bound.check(run.times, run.observables["energy"] - run.observables["energy"][-1]) > 0)
    True
    """
    if not isinstance(measures, Grid) or measures.weights.ndim != 2:
        raise ValueError("measures must be those of a run on a grid, run.measures, with weights (S, K)")
    temperature = scalar(temperature, "temperature", above=0)
    # What is known without the run, checked before anything is computed.
    rho = log_sobolev(temperature=temperature, convexity=convexity, domain=domain)
    rates = 2 * temperature * rho * jnp.exp(-oscillations(bounded, measures) / temperature)
    return Integrated(initial, times, rates, "log-Sobolev along the run")


@compiled
def oscillations(energy: Energy, measures: Grid) -> Float[Array, " S"]:
    """sup - inf over the cells of the first variation of `energy`, at each measure of a run."""

    def one(saved):
        seen = energy.first_variation(eqx.tree_at(lambda mu: (mu.weights, mu.marks), measures, saved))
        return jnp.max(seen) - jnp.min(seen)

    return jax.lax.map(one, (measures.weights, measures.marks))


def log_sobolev(
    *,
    temperature: ScalarLike = 1.0,
    convexity: ScalarLike = 0.0,
    oscillation: ScalarLike = 0.0,
    domain: Domain | None = None,
) -> Float[Array, ""]:
    """A log-Sobolev constant of a Gibbs measure.

    rho with KL(m | m*) <= I(m | m*) / (2 rho) for m* proportional to e^{-(U + B) / T}.

    I = int |grad log(m / m*)|^2 dm, and rho = rho_0 e^{-oscillation / T}, where e^{-U / T} has rho_0.

    - `convexity`: a lower bound of the Hessian of U, positive, on flat space or a box: rho_0 =
      convexity / T (Bakry, Emery). At 0 there is no U: the whole potential is in B.
    - `oscillation`: sup B - inf B (Holley, Stroock).
    - `domain`: at convexity 0, where compact, rho_0 is that of its uniform law: (2 pi / period)^2 on a torus,
      dim on a sphere, (pi / longest side)^2 on a box with no-flux walls.

    No compact domain makes up for a U that is not convex: for a potential without positive convexity take
    convexity 0 and its own oscillation over the domain. The constant is at most the spectral gap of m*.

    **Raises** `ValueError` where nothing gives a positive constant, for a negative convexity, for any
    convexity on a sphere or torus, and where noise does not reach all of the domain (`Frozen`, `Noiseless`).
    Traced, the constant is then 0 or, for a wrong convexity, NaN.

    Source: D. Bakry, I. Gentil, M. Ledoux, "Analysis and Geometry of Markov Diffusion Operators" (2014),
    chapter 5.

    >>> float(log_sobolev(temperature=0.5, convexity=2.0))
    4.0
    """
    require_domain(domain, optional=True)
    temperature = scalar(temperature, "temperature", above=0)
    convexity = scalar(convexity, "convexity")
    if domain is not None and (domain.noiseless or not domain.connected):
        raise ValueError(f"no log-Sobolev constant on {domain!r}: noise does not reach all of it")
    if not is_traced(convexity):
        _check_convexity(float(convexity), domain)
    elif domain is not None and any(domain.closed):
        convexity = jnp.where(convexity == 0, 0, jnp.nan)
    uniform = jnp.zeros(()) if domain is None else domain.log_sobolev
    best = jnp.where(convexity == 0, uniform, convexity / temperature)
    best = jnp.where(best >= 0, best, jnp.nan)
    if not is_traced(best) and not float(best) > 0:
        raise ValueError(
            "no log-Sobolev constant: pass a positive convexity, or the compact domain and the oscillation "
            "of the potential"
        )
    return best * jnp.exp(-scalar(oscillation, "oscillation", minimum=0) / temperature)


def _check_convexity(convexity: float, domain: Domain | None) -> None:
    if convexity < 0:
        raise ValueError(
            f"no log-Sobolev constant from a convexity of {convexity:g}: pass the compact domain, "
            "convexity 0 and the oscillation of the whole potential"
        )
    # Along a closed geodesic a convex function is constant.
    if convexity > 0 and domain is not None and any(domain.closed):
        raise ValueError(
            f"no smooth potential is convex on {domain!r}: pass convexity 0 and its oscillation instead"
        )
