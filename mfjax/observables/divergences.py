"""Divergences between densities on a grid, written so that they neither cancel nor become negative."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import is_traced
from mfjax.flows.base import Flow
from mfjax.measures import Grid, Measure, require_same_cells
from mfjax.observables.base import Observable


class Divergence(Observable):
    """How a density on cells differs from a target. A new one is a subclass with `__call__`.

    - `target`: a `Grid` of as many cells, or a density of one point, taken at cell centers and scaled to mass
      one.

    **Raises** `ValueError` for other targets, for a density that is negative or no number in a cell (traced,
    the divergence is NaN), and on particles, which have no density.

    >>> import mfjax as mf
    >>> class TotalVariation(Divergence):
    ...     def __call__(self, mu, flow=None):
    ...         here, there = self.masses(mu)
    ...         return 0.5 * jnp.sum(jnp.abs(here - there))
    >>> line = mf.domains.Interval(0.0, 1.0)
    >>> tilted = mf.measures.Grid.from_density(line, 64, lambda x: 2 * x[0])
    >>> float(TotalVariation(lambda x: jnp.ones(()))(tilted))
    0.25
    """

    target: Any

    def __init__(self, target: Any):
        if not isinstance(target, Grid) and (isinstance(target, Measure) or not callable(target)):
            raise ValueError(
                f"target must be a Grid or a density of one point, got {type(target).__name__}: "
                f"{type(self).__name__} compares densities"
            )
        self.target = target

    def validate(self, mu, flow):
        if isinstance(self.target, Grid) and isinstance(mu, Grid):
            require_same_cells(self.target, mu, "target")
        elif isinstance(mu, Grid):
            self.masses(mu)

    def masses(self, mu: Measure) -> tuple[Array, Array]:
        """The masses of the measure and of the target, cell by cell."""
        if not isinstance(mu, Grid):
            raise ValueError(
                f"{type(self).__name__} is a function of the density and has no value on "
                f"{type(mu).__name__}: use a Grid, or an explicit density estimate"
            )
        if isinstance(self.target, Grid):
            require_same_cells(self.target, mu, "target")
            return mu.weights, self.target.weights.astype(mu.dtype)
        values = jax.vmap(self.target)(mu.points)
        if values.shape != (mu.size,):
            raise ValueError(f"target must return one number per point, got shape {values.shape[1:]}")
        if not is_traced(values) and not np.all(np.asarray(values) >= 0):
            raise ValueError("target must be a density: it is negative or NaN in a cell")
        values = jnp.where(jnp.all(values >= 0), values, jnp.nan)
        masses = values.astype(mu.dtype) * mu.relative_volume
        return mu.weights, masses / jnp.sum(masses)

    @abstractmethod
    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        """The divergence at a `Grid`."""


class ChiSquare(Divergence):
    """The chi-square divergence of a density from its target.

    chi^2(target | mu) = int (target / mu - 1)^2 dmu, which is int target^2 / mu - 1 for mass one.

    This is the divergence that ultra-fast diffusion dissipates (`energies.PowerDivergence` of order 2) and
    the reverse of the usual chi^2 of sampling, int (mu / target - 1)^2 dtarget. It is infinite where mu
    has no mass and the target has, hence for every atomic mu.

    `target` is a `Grid` on the cells of `mu`, or a density of one point, taken at cell centers and
    scaled to mass one. The relative error is a rounding, however small the value.

    **Raises** `ValueError` on particles, and for a target on other cells.

    Source: VarPro paper (33).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> uniform = mf.measures.Grid.uniform(mf.domains.Torus(1), 4)
    >>> mu = uniform.with_weights(jnp.array([0.5, 0.125, 0.125, 0.25]))
    >>> float(ChiSquare(uniform)(mu))
    0.375
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        return jnp.sum(_where_positive(m, (t - m) ** 2, jnp.where(t > 0, jnp.inf, 0.0)))


class KL(Divergence):
    """The Kullback-Leibler divergence of two measures on one grid, in either order.

    KL(mu | target) = int log(mu / target) dmu - mu(1) + target(1); with `reverse=True`, KL(target | mu).

    The masses cancel for probability measures and keep the value non-negative for others. `target` is a
    `Grid` on the cells of `mu`, or a density of one point, taken at cell centers and scaled to mass one.
    Infinite where the second argument has no mass and the first has. The relative error is a few
    roundings, however small the value.

    **Raises** `ValueError` on particles, and for a target on other cells.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> uniform = mf.measures.Grid.uniform(mf.domains.Torus(1), 4)
    >>> mu = uniform.with_weights(jnp.array([0.5, 0.5, 0.0, 0.0]))
    >>> round(float(KL(uniform)(mu)), 4)
    0.6931
    """

    reverse: bool = eqx.field(static=True)

    def __init__(self, target: Any, reverse: bool = False):
        super().__init__(target)
        self.reverse = bool(reverse)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        first, second = (t, m) if self.reverse else (m, t)
        excess = jnp.where(second > 0, (first - second) / jnp.where(second > 0, second, 1), 0)
        each = jnp.where(second > 0, second * _entropy(excess), jnp.where(first > 0, jnp.inf, 0.0))
        return jnp.sum(each) + no_number(t)


class MaxRatio(Divergence):
    """The largest ratio of target to density, which the maximum principle of the diffusion bounds.

    max over cells of target / mu, the quantity of the maximum principle of ultra-fast diffusion.

    It never rises along that flow for implicit Euler, and to the step tolerance for other schemes. It is at
    least 1 for equal masses, and infinite where mu has no mass and the target has. `target` as for
    `ChiSquare`.

    **Raises** `ValueError` on particles, and for a target on other cells.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> uniform = mf.measures.Grid.uniform(mf.domains.Torus(1), 4)
    >>> float(MaxRatio(uniform)(uniform.with_weights(jnp.array([0.5, 0.125, 0.125, 0.25]))))
    2.0
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        return jnp.max(_where_positive(m, t, jnp.where(t > 0, jnp.inf, 0.0)))


class MaxLogRatio(Divergence):
    """The largest log-ratio of density and target: the bound on log-densities that limit theorems ask for.

    max over cells of |log(target / mu)|. With the uniform target `lambda point: 1.0` it is the sup norm of
    the log-density, which is to stay bounded in Theorem 5.1 (it makes weighted norms and plain ones
    equivalent) and is bounded at the start of 5.2. Infinite where one of the two has no mass and the other
    has.
    `target` as for `ChiSquare`.

    **Raises** `ValueError` on particles, and for a target on other cells.

    Source: VarPro paper, section 5.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> uniform = mf.measures.Grid.uniform(mf.domains.Torus(1), 4)
    >>> mu = uniform.with_weights(jnp.array([0.5, 0.125, 0.125, 0.25]))
    >>> round(float(MaxLogRatio(lambda point: 1.0)(mu)), 6), round(float(jnp.log(2.0)), 6)
    (0.693147, 0.693147)
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        both, neither = (m > 0) & (t > 0), (m == 0) & (t == 0)
        ratio = jnp.where(both, t, 1) / jnp.where(both, m, 1)
        return jnp.max(jnp.where(both | neither, jnp.abs(jnp.log(ratio)), jnp.inf)) + no_number(t)


def no_number(masses: Array) -> Float[Array, ""]:
    """NaN where one of the masses is, otherwise zero: comparisons with NaN do not show it."""
    return 0 * jnp.sum(masses)


def _where_positive(denominator: Array, numerator: Array, otherwise: Array) -> Array:
    """numerator / denominator, or `otherwise` where the denominator vanishes."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)


def _entropy(r: Array) -> Array:
    """(1 + r) log(1 + r) - r for r >= -1, by its series where the two terms cancel."""
    small = jnp.abs(r) < 0.03
    s = jnp.where(small, r, 0)
    series = jnp.zeros_like(s)
    for k in range(11, 1, -1):
        series = 1 / (k * (k - 1)) - s * series
    positive = ~small & (r > -1)
    z = jnp.where(positive, r, 1)
    return jnp.where(small, s * s * series, jnp.where(positive, (1 + z) * jnp.log1p(z) - z, -r))
