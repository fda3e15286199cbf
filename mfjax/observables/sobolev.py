"""The weighted negative Sobolev distance that governs how fast an energy can fall."""

from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import safe_sqrt
from mfjax.flows.base import Flow
from mfjax.grids.faces import above, shares, without_wall
from mfjax.measures import Grid, Measure
from mfjax.observables.divergences import _Divergence


class SobolevDistance(_Divergence):
    """The weighted negative Sobolev distance to a target in one dimension.

    |target - mu| in dot-H^{-1}(mu): the supremum of int h d(target - mu) over int |h'|^2 dmu <= 1.

    In one dimension, with G the cumulative function of target - mu, its square is

    - int G^2 / mu dx on an interval, where G vanishes at both ends;
    - int (G - c)^2 / mu dx on a circle, c = (int G / mu) / (int 1 / mu), so that int (G - c) / mu = 0;
    - int G^2 / (a mu) dx where a section at x has the area a(x), as on `domains.Zonal`.

    The constant of Theorem 5.1 of the VarPro paper, which assumes it bounded along the flow (`bounds`).
    `target` is a `Grid` on the cells of `mu`, or a density of one point, taken at cell centers; both are
    scaled to mass one. 1 / mu at a face is the mean of the two cells: second order in the spacing.

    **Raises** `ValueError` on particles, for which it is infinite, and on grids of two or more axes. It is
    infinite where a cell of `mu` is empty.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> line = mf.measures.Grid.uniform(mf.domains.Interval(0.0, 1.0), 64)
    >>> tilted = mf.measures.Grid.from_density(mf.domains.Interval(0.0, 1.0), 64, lambda x: 2 * x[0])
    >>> round(float(SobolevDistance(tilted)(line)) ** 2, 3), round(1 / 30, 3)
    (0.033, 0.033)
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self._masses(mu)
        mu = cast(Grid, mu)
        if len(mu.shape) != 1:
            raise ValueError(f"SobolevDistance has a closed form in one dimension, got {len(mu.shape)} axes")
        m, t = m / jnp.sum(m), t / jnp.sum(t)
        full = jnp.all(m > 0)
        density = jnp.where(full, m, 1) / mu.spacing[0]
        # Entry i belongs to the face between cells i and i + 1, the last one to the end or the closing face.
        cumulative = jnp.cumsum(t - m)
        # Per length on both sides of a face, whose area is zero at a pole, where nothing passes.
        sizes = [jnp.where(share > 0, share, 1) for share in shares(mu, 0)]
        lightness = 0.5 * (1 / (sizes[0] * density) + 1 / (sizes[1] * above(density, 0)))
        lightness = without_wall(lightness, mu, 0)
        if mu.periodic[0]:
            cumulative = cumulative - jnp.sum(lightness * cumulative) / jnp.sum(lightness)
        else:
            cumulative = cumulative.at[-1].set(0)
        square = mu.spacing[0] * jnp.sum(lightness * cumulative**2)
        return jnp.where(full, safe_sqrt(square), jnp.inf)
