"""Exact Wasserstein distances on a line and on a circle."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import safe_sqrt
from mfjax.domains import Domain, Euclidean, Sphere
from mfjax.flows.base import Flow
from mfjax.measures import Grid, Measure
from mfjax.observables.base import (
    Observable,
    arc_length,
    as_measure,
    check_dimension,
    check_flow_domain,
    is_unit_circle,
    on_unit_circle,
    one_dimensional,
)


class Wasserstein1D(Observable):
    """The Wasserstein distance to a target on a line or a circle.

    W_p(mu, target) = (inf over couplings of int d(x, y)^p)^(1/p), p = `order` 1 or 2, d the length along
    the line or the shorter arc of the circle.

    - `target`: as for `EnergyDistance`: a measure, points (M, d), or a density with `domain` (then on
      `cells` cells, 4096 unless given, which displaces mass by at most half a cell).
    - `domain`: one of dimension one, `Euclidean(1)`, an interval, `Sphere(1)`, `Torus(1)` or a curve. Unless
      given, (M, 1) points lie on the line and unit vectors of the plane on the circle.

    - `spread`: on a line, the mass of each cell of a grid is uniform over the cell instead of an atom at its
      center: the cumulative function is piecewise linear, and a density is met to second order in the
      cells, where atoms are off by up to half a cell, and a change of mass dm between two cells by its root.

    Both measures are scaled to total mass one. The result is exact up to rounding:

    - W_1 = int |F - G - c| of the cumulative functions; c = 0 on the line, on the circle a median of F - G
      with respect to arc length (Werman, Peleg, Rosenfeld 1985).
    - W_2^2 = int |F^-1(s) - G^-1(s - theta)|^2 ds; theta = 0 on the line, on the circle the minimizer of a
      convex, piecewise linear function of theta, found by bisection and moved onto its breakpoint
      (Delon, Salomon, Sobolevski, SIAM J. Appl. Math. 70, 2010).

    Cost O((M + K) log(M + K)), times some 60 halvings (30 in float32) for W_2 on the circle. Two
    orderings of one measure whose levels are not exact in binary are up to the square root of rounding
    apart in W_2, rounding in W_1. The derivative at distance zero is zero.

    **Raises** `ValueError` for another order, for `spread` on a circle, for points or a domain that are
    neither line nor circle, and, for unit vectors without a domain, a flow elsewhere than on the circle.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0], [1.0]]))
    >>> float(Wasserstein1D(mu.points + 3.0, order=2)(mu))
    3.0
    """

    coordinates: Float[Array, " M"]
    masses: Float[Array, " M"]
    # That of the measures, and the one that was given.
    place: Domain
    domain: Domain | None
    half: Float[Array, ""]
    order: int = eqx.field(static=True)
    spread: bool = eqx.field(static=True)

    def __init__(
        self,
        target: Any,
        order: int = 1,
        domain: Domain | None = None,
        *,
        cells: int | None = None,
        spread: bool = False,
    ):
        self.order, self.spread = check_order(order), bool(spread)
        measure = as_measure(target, domain, cells)
        if domain is not None and not one_dimensional(domain):
            raise ValueError(f"Wasserstein1D needs a line or a circle, got {domain!r}")
        self.domain = domain
        if domain is None and measure.points.shape[-1] == 1:
            domain = Euclidean(1)
        elif domain is None and on_unit_circle(measure.points):
            domain = Sphere(1)
        elif domain is None:
            raise ValueError(
                f"target points of dimension {measure.points.shape[-1]} lie neither on a line nor on the "
                "unit circle: pass domain="
            )
        self.place = domain
        coordinates = arc_length(domain, measure.points)
        self.coordinates, self.masses = jax.lax.sort((coordinates, measure.weights), num_keys=1)
        if self.spread and domain.closed[0]:
            raise ValueError(f"spread is for a line, got {domain!r}: there cells are atoms at their centers")
        self.half = _half_cell(measure)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.place.ambient)
        check_flow_domain(flow, self.domain)
        if (
            self.domain is None
            and flow is not None
            and self.place.closed[0]
            and not is_unit_circle(flow.domain)
        ):
            raise ValueError(
                "a target of unit vectors is taken for one on the circle, and this flow is on "
                f"{flow.domain!r}: pass domain=Sphere(1) for directions, or take WassersteinDistance"
            )
        x, a = arc_length(self.place, mu.points), mu.weights / mu.mass
        y, b = self.coordinates.astype(mu.dtype), self.masses.astype(mu.dtype)
        b = b / jnp.sum(b)
        length = self.place.lengths.astype(mu.dtype)[0] if self.place.closed[0] else None
        if self.spread:
            return self._spread(mu, x, a, y, b)
        if self.order == 1:
            return _first_order(x, a, y, b, length)
        x, a = jax.lax.sort((x, a), num_keys=1)
        source, target = _levels(a), _levels(b)
        if length is None:
            return safe_sqrt(_cost(x, source, y, target, jnp.zeros_like(source[0]), jnp.zeros_like(x[0])))
        shift = _best_shift(x, source, y, target, length)
        return safe_sqrt(_cost(x, source, y, target, shift, length))

    def _spread(self, mu: Measure, x: Array, a: Array, y: Array, b: Array) -> Array:
        """The distance of piecewise linear quantile functions, exactly, between the levels of both."""
        x, a = jax.lax.sort((x, a), num_keys=1)
        source, target = _levels(a), _levels(b)
        cuts = jnp.sort(jnp.concatenate([source, target]))
        pieces = jnp.diff(cuts, prepend=jnp.zeros_like(cuts[:1]))
        here = _uniform_quantiles(x, a, source, _half_cell(mu), cuts, pieces)
        there = _uniform_quantiles(y, b, target, self.half.astype(mu.dtype), cuts, pieces)
        # The gap is linear on each piece, u at its beginning and v at its end.
        u, v = (p - q for p, q in zip(here, there, strict=True))
        if self.order == 2:
            return safe_sqrt(jnp.sum(pieces * (u * u + u * v + v * v)) / 3)
        same = u * v >= 0
        size = jnp.abs(u) + jnp.abs(v)
        mean = jnp.where(same, 0.5 * size, 0.5 * (u * u + v * v) / jnp.where(same, 1, size))
        return jnp.sum(pieces * mean)


def check_order(order: Any) -> int:
    """`order`, which must be 1 or 2."""
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    return int(order)


def _half_cell(mu: Measure) -> Array:
    """Half the side of a cell of a grid on a line, 0 for particles."""
    return 0.5 * mu.spacing[0] if isinstance(mu, Grid) else jnp.zeros((), mu.dtype)


def _uniform_quantiles(x, masses, levels, half, cuts, pieces) -> tuple[Array, Array]:
    """Quantiles at both ends of each piece below `cuts`, masses uniform within `half` of x."""
    at = _at(levels, cuts - 0.5 * pieces)
    mass = jnp.where(masses > 0, masses, 1)
    # How far the piece lies within its cell, from 0 to 1.
    into = lambda s: jnp.clip((s - levels[at]) / mass[at] + 1, 0, 1)
    return tuple(x[at] + half * (2 * into(s) - 1) for s in (cuts - pieces, cuts))


def _first_order(x, a, y, b, length) -> Array:
    positions, masses = jax.lax.sort(
        (jnp.concatenate([x, y]), jnp.concatenate([a, -b])), num_keys=1, is_stable=False
    )
    difference, gaps = jnp.cumsum(masses), jnp.diff(positions)
    if length is None:
        return jnp.sum(gaps * jnp.abs(difference[:-1]))
    gaps = jnp.append(gaps, length - (positions[-1] - positions[0]))
    return jnp.sum(gaps * jnp.abs(difference - _median(difference, gaps)))


def _median(values: Array, weights: Array) -> Array:
    order = jnp.argsort(values)
    half = jnp.cumsum(weights[order])
    return values[order][jnp.searchsorted(half, 0.5 * half[-1])]


def _levels(masses: Array) -> Array:
    """Cumulative masses, of which the last is exactly one."""
    levels = jnp.cumsum(masses)
    # Compiled division need not give one for equal numbers.
    levels = (levels / levels[-1]).at[-1].set(1)
    return jnp.where(levels < 1, levels, 1)


def _unrolled(positions: Array, levels: Array, length: Array) -> tuple[Array, Array]:
    """Atoms and levels over the turns -2, ..., 2, which cover every level met below.

    With one index into this list a level that lies on a turn, up to rounding, never gets the atom of one
    side of it and the turn of the other.
    """
    turns = jnp.arange(-2, 3, dtype=levels.dtype)[:, None]
    return (positions + turns * length).ravel(), (levels + turns).ravel()


def _at(levels: Array, s: Array) -> Array:
    """The index of the atom that carries the mass level `s`."""
    return jnp.minimum(jnp.searchsorted(levels, s), levels.shape[0] - 1)


def _cost(x, source, y, target, shift, length) -> Array:
    """int over [0, 1] of |X(s) - Y(s - shift)|^2 for quantile functions of sorted atoms."""
    moved = target + shift
    moved = moved - (jnp.ceil(moved) - 1)
    cuts = jnp.sort(jnp.concatenate([source, moved]))
    pieces = jnp.diff(cuts, prepend=jnp.zeros_like(cuts[:1]))
    middle = cuts - 0.5 * pieces
    there, levels = _unrolled(y, target, length)
    gap = x[_at(source, middle)] - there[_at(levels, middle - shift)]
    return jnp.sum(pieces * gap * gap)


def _best_shift(x, source, y, target, length) -> Array:
    """The shift of mass levels of least cost."""
    beyond = jnp.append(y[1:], y[0] + length)
    here, levels = _unrolled(x, source, length)

    def decreasing(shift):
        # The cost changes only where a jump of Y moves along X.
        at = here[_at(levels, target + shift)]
        return jnp.sum((beyond - y) * (2 * at - y - beyond)) < 0

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        left = decreasing(middle)
        return jnp.where(left, middle, low), jnp.where(left, high, middle)

    # No arc is longer than half the circle, so the mean displacement bounds the shift by 3/2.
    bracket = (jnp.full_like(length, -2), jnp.full_like(length, 2))
    halvings = 56 if length.dtype == jnp.float64 else 28
    low, high = jax.lax.fori_loop(0, halvings, halve, bracket)
    # The minimizer is a breakpoint, a level of X minus a level of Y: written so, it has the right
    # derivative in the masses.
    shift = 0.5 * (low + high)
    crossing = target + shift
    above = _at(levels, crossing)
    up, down = levels[above] - crossing, levels[jnp.maximum(above - 1, 0)] - crossing
    nearest = jnp.where(jnp.abs(up) < jnp.abs(down), up, down)
    return shift + nearest[jnp.argmin(jnp.abs(nearest))]
