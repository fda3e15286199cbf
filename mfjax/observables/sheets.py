"""What the heights of a network do over one place: moments of the hierarchy, and the closure defect."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count, inner, kind
from mfjax.domains import Domain, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure, Particles
from mfjax.observables.base import Observable, arc_length, one_dimensional


class Sheets(NamedTuple):
    """A curve a -> (theta(a), w(a)) in segments from place to place, each of a mass that lies evenly on it.

    Segment s begins at the coordinate `start` and ends `length` further on, where its height, which is
    `height` at first, has risen by `rise`.
    """

    mass: Float[Array, " S"]
    start: Float[Array, " S"]
    length: Float[Array, " S"]
    height: Float[Array, " S"]
    rise: Float[Array, " S"]


class _OfSheets(Observable):
    """An observable of particles that are the images of a line of labels, in their order."""

    domain: Domain

    def __init__(self, domain: Domain):
        require_domain(domain)
        if not one_dimensional(domain):
            raise ValueError(
                f"{type(self).__name__} is over the places of a line or a closed curve, got {domain!r}"
            )
        self.domain = domain

    def _sheets(self, mu: Measure) -> Sheets:
        height, points = heights(mu)
        if not isinstance(mu, Particles):
            raise ValueError(
                f"{type(self).__name__} is of particles in the order of their labels, got {kind(mu)}: on a "
                "grid one height stands over each place"
            )
        if points.shape[-1] != self.domain.ambient:
            raise ValueError(
                f"places on {self.domain!r} have {self.domain.ambient} coordinates, got {points.shape[-1]}"
            )
        if mu.size < 2:
            raise ValueError(f"{type(self).__name__} joins particles by segments, and needs two, got one")
        # Particles without mass are no labels: they come last, and nothing joins them.
        order = jnp.argsort(mu.weights <= 0, stable=True)
        weights, height, place = mu.weights[order], height[order], arc_length(self.domain, points)[order]
        joined, last = weights[1:] > 0, jnp.maximum(jnp.sum(mu.weights > 0) - 2, 0)
        step = jnp.where(joined, jnp.diff(place), 0)
        if self.domain.closed[0]:
            period = self.domain.lengths.astype(place.dtype)[0]
            step = step - period * jnp.round(step / period)
        # The ends of the line of labels keep their whole mass.
        mass = jnp.where(joined, 0.5 * (weights[:-1] + weights[1:]), 0)
        mass = mass.at[0].add(0.5 * weights[0]).at[last].add(0.5 * weights[last + 1])
        # Of one particle with mass there is no sheet.
        mass = jnp.where(joined[0], mass, jnp.nan)
        back = step < 0
        from_, to = jnp.where(back, height[1:], height[:-1]), jnp.where(back, height[:-1], height[1:])
        return Sheets(mass, jnp.where(back, place[1:], place[:-1]), jnp.abs(step), from_, to - from_)

    def _since(self, sheets: Sheets, place: Float[Array, " P"]) -> Float[Array, "P S"]:
        """How far beyond the start of each segment a place lies, up to a turn on a closed curve."""
        gap = place[:, None] - sheets.start
        if not self.domain.closed[0]:
            return gap
        return jnp.mod(gap, self.domain.lengths.astype(place.dtype)[0])


def heights(mu: Measure) -> tuple[Float[Array, " K"], Float[Array, "K d"]]:
    """(w, theta) of each particle: the mark "H" and the points, or the first coordinate and the others."""
    if "H" in mu.marks:
        if mu.marks["H"].ndim != 1:
            raise ValueError(f"sheets have one height at a point, got the mark 'H' {mu.marks['H'].shape}")
        return mu.marks["H"], mu.points
    return mu.points[:, 0], mu.points[:, 1:]


class ClosureDefect(_OfSheets):
    """How far the (rho, H) system is from closed: the variance of outer weights over one place, on average.

    int Var(w | theta) drho(theta) = int H_2 - H_1^2 drho, H_i(theta) = int w^i dnu_theta.

    Of particles that are the images of a line of labels, in their order: (w, theta) moves by the mu-flow,
    and `flows.PropagationOfChaos` (3.23) is the equation of its density and height as long as the map from
    labels to places is one to one, where the defect is zero. Where the map folds, several sheets lie over one
    place with their own heights: no single height stands for them, a grid cannot follow, and the equation of
    H asks for the next one of the hierarchy (3.27). Particles go on, as gradient descent of the network.

    Consecutive particles are joined by a segment with the mean of their masses (the ends keep theirs whole),
    on which the height is linear in the place; the integral over these sheets is exact. Where consecutive
    particles are at one place, as at a wall that they have reached, the segment stands upright, and its mass
    has all heights between theirs there. Particles without mass are left out. Cost O(M^2). Over distinct
    points without labels the defect is zero whatever they do: a cloud of particles has none.

    - `domain`: where theta lives, a line or a closed curve. On a closed one the labels need not close, and
      consecutive particles are joined by the shorter arc.

    w is the mark "H", or else the first coordinate of the points.

    **Raises** `ValueError` for domains of other dimensions, on a `Grid`, and for a single particle.

    Source: survey, Lemma 3.2 and Remark 3.4.

    >>> import mfjax as mf
    >>> label = jnp.linspace(0.0, 1.0, 5)
    >>> mass = jnp.array([0.125, 0.25, 0.25, 0.25, 0.125])
    >>> folded = mf.measures.Particles(jnp.stack([label, jnp.abs(2 * label - 1)], axis=1), mass)
    >>> round(12 * float(ClosureDefect(mf.domains.Interval(0.0, 1.0))(folded)), 6)
    1.0
    """

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        sheets = self._sheets(mu)
        ends = jnp.concatenate([sheets.start, sheets.start + sheets.length])
        if self.domain.closed[0]:
            period = self.domain.lengths.astype(ends.dtype)[0]
            low = jnp.sort(jnp.mod(ends, period))
            width = jnp.diff(low, append=low[:1] + period)
        else:
            low = jnp.sort(ends)
            low, width = low[:-1], jnp.diff(low)
        since = self._since(sheets, low + 0.5 * width)
        length = jnp.where(sheets.length > 0, sheets.length, 1)
        density = jnp.where((since >= 0) & (since < sheets.length), sheets.mass / length, 0)
        slope = sheets.rise / length
        # Between the ends of sheets every height is linear: its variance is a parabola.
        middle = _spread(density, sheets.height + slope * since)
        between = middle + _spread(density, jnp.broadcast_to(slope, since.shape)) * width**2 / 12
        return inner(width, between) + self._upright(sheets)

    def _upright(self, sheets: Sheets) -> Float[Array, ""]:
        """The part of the segments of length zero: those at one place have all their heights there."""
        mass = jnp.where(sheets.length > 0, 0, sheets.mass)
        here = (self._since(sheets, sheets.start) == 0).astype(mass.dtype)
        # Each with the mean of those at its place.
        height = sheets.height + 0.5 * sheets.rise
        total = inner(here, mass)
        mean = inner(here, mass * height) / jnp.where(total > 0, total, 1)
        return inner(mass, (height - mean) ** 2 + sheets.rise**2 / 12)


def _spread(density: Float[Array, "P S"], value: Float[Array, "P S"]) -> Float[Array, " P"]:
    """sum_s rho_s (v_s - mean)^2 over the sheets above each place."""
    total = jnp.sum(density, axis=1)
    mean = jnp.sum(density * value, axis=1) / jnp.where(total > 0, total, 1)
    return jnp.sum(density * (value - mean[:, None]) ** 2, axis=1)


class HeightMoments(_OfSheets):
    """The moments of the outer weights over each cell of the line of places: the unknowns of the hierarchy.

    int_cell w^i dmu = int_cell H_i drho for i = 0, ..., order: an array (order + 1, n), whose row 0 is rho.

    For one sheet H_2 = H_1^2 and so on, and the hierarchy (3.27), in which the equation of H_i asks for
    H_{i+1}, closes. Particles, labels, segments and `domain` as for `ClosureDefect`; exact for them.

    - `order`: the highest power. `n`: cells of the domain, `domain.cells(n)`.

    **Raises** `ValueError` as `ClosureDefect` does, and for domains without a uniform grid.

    Source: survey, Lemma 3.2, (3.27).

    >>> import mfjax as mf
    >>> label = jnp.linspace(0.0, 1.0, 5)
    >>> mass = jnp.array([0.125, 0.25, 0.25, 0.25, 0.125])
    >>> folded = mf.measures.Particles(jnp.stack([label, jnp.abs(2 * label - 1)], axis=1), mass)
    >>> HeightMoments(2, 4, mf.domains.Interval(0.0, 1.0))(folded).round(4).tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.125, 0.125, 0.125, 0.125], [0.063..., 0.071..., 0.087..., 0.110...]]
    """

    order: int = eqx.field(static=True)
    edges: Float[Array, " n1"]

    def __init__(self, order: int, n: int, domain: Domain):
        super().__init__(domain)
        self.order = count(order, "order")
        cells = domain.cells(n)
        first, side = arc_length(domain, cells.points[:1]), cells.spacing[0]
        self.edges = first + side * (jnp.arange(cells.shape[0] + 1) - 0.5)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, "orders n"]:
        sheets = self._sheets(mu)
        gap = self.edges.astype(mu.dtype)[:, None] - sheets.start
        length = jnp.where(sheets.length > 0, sheets.length, jnp.finfo(mu.dtype).tiny)
        turns = [0.0]
        if self.domain.closed[0]:
            period = self.domain.lengths.astype(mu.dtype)[0]
            turns = [-period, 0.0, period]
        node, weight = np.polynomial.legendre.leggauss(self.order // 2 + 1)
        node, weight = (jnp.asarray(v, mu.dtype) for v in (0.5 * (node + 1), 0.5 * weight))
        powers = jnp.arange(self.order + 1)
        moments = jnp.zeros((self.order + 1, gap.shape[0] - 1), mu.dtype)
        for turn in turns:
            # The part of each segment that lies before an edge; all of it before the last one of a line.
            part = jnp.clip((gap + turn) / length, 0, 1)
            if not self.domain.closed[0]:
                part = part.at[0].set(0).at[-1].set(1)
            inside = jnp.diff(part, axis=0)
            for x, share in zip(node, weight, strict=True):
                height = sheets.height + sheets.rise * (part[:-1] + x * inside)
                moments = moments + share * jnp.sum(
                    sheets.mass * inside * height ** powers[:, None, None], axis=-1
                )
        return moments
