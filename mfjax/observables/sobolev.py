"""The weighted negative Sobolev distance that governs how fast an energy can fall."""

from typing import Any, cast

import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner, safe_sqrt
from mfjax.flows.base import Flow
from mfjax.grids.diffusion import Conductance, stiffness
from mfjax.grids.faces import above, below, cells, content, distance, shares, without_wall
from mfjax.measures import Grid, Measure
from mfjax.observables.divergences import Divergence

# Conjugate gradients of one solve, some ten for each cell of an axis.
ITERATIONS = 5000


class SobolevDistance(Divergence):
    """The weighted negative Sobolev distance to a target.

    |target - mu| in dot-H^{-1}(mu): the supremum of int h d(target - mu) over int |h'|^2 dmu <= 1.

    Its square is int h d(target - mu) for the solution of -div(mu grad h) = target - mu without flux through
    walls. In one dimension, with G the cumulative function of target - mu, that is

    - int G^2 / mu dx on an interval, where G vanishes at both ends;
    - int (G - c)^2 / mu dx on a circle, c = (int G / mu) / (int 1 / mu), so that int (G - c) / mu = 0;
    - int G^2 / (a mu) dx where a section at x has the area a(x), as on `domains.Zonal`.

    On grids of several axes finite volumes and conjugate gradients, some multiple of the cells of an axis
    in number; derivatives are those of the equation.

    The constant of Theorem 5.1 of the VarPro paper, which assumes it bounded along the flow (`bounds`), and
    an upper bound of transport: W_2(mu, target) <= 2 |target - mu|.
    `target` is a `Grid` on the cells of `mu`, or a density of one point, taken at cell centers; both are
    scaled to mass one. 1 / mu at a face is the mean of the two cells: second order in the spacing.

    **Raises** `ValueError` on particles, for which it is infinite, and on grids of several species. It is
    infinite where a cell of `mu` is empty, and NaN where the iteration does not end.

    Source: VarPro paper, section 5.1; R. Peyre, ESAIM: COCV 24 (2018) 1489-1501, for the comparison.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> line = mf.measures.Grid.uniform(mf.domains.Interval(0.0, 1.0), 64)
    >>> tilted = mf.measures.Grid.from_density(mf.domains.Interval(0.0, 1.0), 64, lambda x: 2 * x[0])
    >>> round(float(SobolevDistance(tilted)(line)) ** 2, 3), round(1 / 30, 3)
    (0.033, 0.033)
    """

    def __init__(self, target: Any):
        super().__init__(target)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        m, t = self.masses(mu)
        mu = cast(Grid, mu)
        if mu.frozen:
            raise ValueError(
                "no mass can move from one species to another, nor along a frozen axis: take those of one "
                "sign, or of one place"
            )
        m, t = m / jnp.sum(m), t / jnp.sum(t)
        full = jnp.all(m > 0)
        # On a line by length, elsewhere by volume.
        line = len(mu.shape) == 1
        density = jnp.where(full, m, 1) / (mu.spacing[0] if line else mu.volume)
        square = _along_a_line if line else _by_elliptic_solve
        return jnp.where(full, safe_sqrt(square(mu, t - m, density)), jnp.inf)


def _along_a_line(mu: Grid, change: Array, density: Array) -> Array:
    # Entry i belongs to the face between cells i and i + 1, the last one to the end or the closing face.
    cumulative = jnp.cumsum(change)
    # Per length on both sides of a face, whose area is zero at a pole, where nothing passes.
    sizes = [jnp.where(share > 0, share, 1) for share in shares(mu, 0)]
    lightness = 0.5 * (1 / (sizes[0] * density) + 1 / (sizes[1] * above(density, 0)))
    lightness = without_wall(lightness, mu, 0)
    if mu.periodic[0]:
        cumulative = cumulative - jnp.sum(lightness * cumulative) / jnp.sum(lightness)
    else:
        cumulative = cumulative.at[-1].set(0)
    return mu.spacing[0] * jnp.sum(lightness * cumulative**2)


def _by_elliptic_solve(mu: Grid, change: Array, density: Array) -> Array:
    through, change = _conductance(mu, density), change - jnp.mean(change)
    diagonal = jnp.ravel(sum(each + below(each, axis) for axis, each in enumerate(through)))
    accurate = 1e-12 if mu.dtype == jnp.float64 else 1e-6
    options = {"tol": accurate, "maxiter": ITERATIONS, "M": lambda values: values / diagonal}
    h, _ = cg(lambda values: stiffness(through, values), change, **options)
    misfit = jnp.sum(jnp.abs(stiffness(through, h) - change))
    done = misfit <= 1e4 * accurate * jnp.sum(jnp.abs(change))
    return jnp.where(done, inner(h, change), jnp.nan)


def _conductance(mu: Grid, density: Array) -> Conductance:
    """Of each face, for the harmonic mean of the densities of its cells."""
    lightness = cells(1 / density, mu)
    return tuple(
        without_wall(2 / (lightness + above(lightness, axis)), mu, axis)
        * (content(mu, axis) / (mu.spacing[axis] * distance(mu, axis)))
        for axis in range(len(mu.shape))
    )
