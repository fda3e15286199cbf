"""Decay of ultra-fast diffusion in chi^2, in continuous time and by minimizing movements."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, kind
from mfjax.energies.power_divergence import PowerDivergence
from mfjax.grids.diffusion import conductance, stiffness
from mfjax.measures import Grid
from mfjax.observables.divergences import ChiSquare
from mfjax.theory.bounds.base import Exponential, Geometric, check_probability


def diffusion_decay(energy: PowerDivergence, mu: Grid) -> Exponential:
    """The exponential decay of the chi-square divergence along ultra-fast diffusion.

    chi^2(target | mu_t) <= e^{-2 r scale a^r gap t} chi^2(target | mu) along the flow of order r from `mu`.

    mu is a probability measure and a = min target / mu <= 1 at the start, which never falls along the flow;
    gap is `spectral_gap` of the target. With g = target / mu, d_t chi^2 = -2 r scale int g^{r-1} |g'|^2
    dtarget, at most -2 r scale a^{r-1} gap Var(g), and chi^2 = Var of g under mu <= Var(g) under the target
    / a. As a tends to 1 this is twice the rate of the linearized flow, r scale gap: 2 gap for f = t^2 / 2.

    It holds on grids of any dimension for the finite-volume scheme too, with the gap of its own grid: there
    the mean of g^{r-1} between two cells stands for its value. The paper treats r = 2 alone, compares
    densities with the uniform law instead and gets e^{-6 |log|} in place of a^2.

    **Raises** `ValueError` for another energy, and for a measure of another mass than one.

    Source: VarPro paper, Theorem 4.3, and for r = 2 the proof of Lemma 4.3 (where |nu|_TV^2 should be
    |nu|_TV^4); for other r the derivation above.
    """
    chi_square, rate = _chi_square_and_rate(energy, mu)
    return Exponential(chi_square, rate, "Theorem 4.3")


def proximal_contraction(energy: PowerDivergence, mu: Grid, step: ScalarLike) -> Geometric:
    """The decay of the chi-square divergence under minimizing movements of one step size.

    chi^2(target | mu_k) <= (1 + C step)^{-k} chi^2(target | mu) for minimizing movements of size `step`.

    C = 2 scale a^2 gap, a and gap as for `diffusion_decay`: half the rate of continuous time, since
    mu_{k+1} is only compared with mu_k. Implicit Euler on a grid obeys it with twice the C, its energy
    being convex in mu.

    **Raises** `ValueError` as `diffusion_decay` does, for an order other than 2, and for step <= 0.

    Source: VarPro paper, Lemma 4.3.
    """
    if isinstance(energy, PowerDivergence) and not is_traced(energy.order) and float(energy.order) != 2:
        raise ValueError(f"the bound is known for order 2, got {float(energy.order):g}")
    chi_square, rate = _chi_square_and_rate(energy, mu)
    return Geometric(chi_square, 0.5 * rate, step, "Lemma 4.3")


def _chi_square_and_rate(energy: PowerDivergence, mu: Grid) -> tuple[Array, Array]:
    """chi^2 at `mu`, and 2 r scale a^r gap for the order r."""
    if not isinstance(energy, PowerDivergence):
        raise ValueError(f"this bound is that of a PowerDivergence, got {kind(energy)}")
    check_probability(mu, "mu")
    masses = energy.target_density(mu.points) * mu.volume
    total = jnp.sum(masses)
    target = mu.with_weights(masses / total)
    # A target of another mass is one of mass one at another scale.
    order, a = energy.order.astype(mu.dtype), jnp.min(target.weights / mu.weights)
    return ChiSquare(target)(mu), 2 * order * energy.scale * (total * a) ** order * spectral_gap(target)


def spectral_gap(target: Grid) -> Float[Array, ""]:
    """The inverse Poincare constant of a target.

    The least positive eigenvalue of h -> -div(target grad h) / target.

    Of the finite-volume operator, the target averaged to faces: second order in the spacing. Dense, K^3
    operations: K up to about 2000 cells.

    **Raises** `ValueError` for what is no `Grid`, for one with species or a frozen axis, along which nothing
    flows, and for empty cells, which make NaN where masses are traced.

    >>> import mfjax as mf
    >>> round(float(spectral_gap(Grid.uniform(mf.domains.Sphere(1), 64))), 2)
    1.0
    """
    if not isinstance(target, Grid):
        raise ValueError(f"spectral_gap is that of a density on a Grid, got {kind(target)}")
    if target.frozen:
        raise ValueError(
            "spectral_gap is zero where nothing flows between species or along a frozen axis: take that of "
            "each place"
        )
    if not is_traced(target.weights) and not np.all(np.asarray(target.weights) > 0):
        raise ValueError("spectral_gap is that of a positive density, got one with empty cells")
    through = conductance((1.0, PowerDivergence(target)), target)
    matrix = jax.vmap(lambda v: stiffness(through, v))(jnp.eye(target.size, dtype=target.dtype))
    root = jnp.sqrt(target.weights)
    return jnp.linalg.eigvalsh(matrix / (root[:, None] * root))[1]
