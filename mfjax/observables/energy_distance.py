"""The energy distance to a target: the discrepancy of the kernel -|x - y|."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known, safe_norm
from mfjax.domains import Domain, Euclidean, Sphere
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import (
    Observable,
    angles,
    arc_length,
    as_measure,
    check_dimension,
    check_flow_domain,
    is_unit_circle,
    on_unit_circle,
)
from mfjax.observables.sorted_energy import circle_energy, line_energy

# Rows of the distance matrix that are in memory at one time.
ROWS = 64


class EnergyDistance(Observable):
    """The squared energy distance to a target.

    MMD^2 = 2 E|A - B| - E|A - A'| - E|B - B'| for A ~ mu, B ~ target: a V-statistic, clipped at 0.

    - `target`: a measure, points (M, d) of equal masses, or a density of one point with respect to
      volume, discretized on `cells` cells per axis of `domain` (4096, 64, 16 in dimension 1, 2, 3 unless
      given) and scaled to mass one. Discretization by cells of side h adds about
      h^2 / 6 int density^2 in one dimension.
    - `domain`: whose distance is meant. Without it |x - y| is the distance of the stored coordinates (the
      chord on a sphere); a `Torus` must be passed.
    - `metric`: "chordal", |embed(x) - embed(y)| with `domain.embed`, for which the value is zero only
      at the target; or "wrapped", the length of `domain.displacement` on a `Torus`, which is not negative
      definite beyond one dimension: the value may then vanish elsewhere.

    The value has the unit of a length. Both measures are scaled to total mass one: the kernel -|x - y| is a
    discrepancy between equal masses only.

    On the line and on the circle one sort of all points, O((M + K) log(M + K)), and no cancellation:
    the relative error stays near rounding however small the distance. Elsewhere sums over blocks
    of rows, memory O(M), with an absolute error of a few roundings of the mean distance (about 1e-7 in
    float32). The circle is recognized from `domain=Sphere(1)`, or from a flow on it; points are
    then read as directions.

    The derivative is that of the symmetric one-sided mean: coincident points do not push each other.

    **Raises** `ValueError` for a density without a domain, an unknown metric, a flow on a torus without
    `domain`, and points of different dimensions.

    Source: thesis III.6 (its distance curves are the square root of this).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> obs = EnergyDistance(jnp.array([[0.0], [1.0]]))
    >>> float(obs(mf.measures.Particles(jnp.array([[0.5], [0.5]]))))
    0.5
    """

    target: Measure
    # Coordinates of the target where sorting applies: arc length on a line, angles on a circle.
    coordinates: Float[Array, " M"] | None
    # E|B - B'|, where sorting does not apply.
    self_distance: Float[Array, ""] | None
    domain: Domain | None
    metric: str = eqx.field(static=True)

    def __init__(
        self,
        target: Any,
        domain: Domain | None = None,
        metric: str = "chordal",
        *,
        cells: int | None = None,
    ):
        if metric not in ("chordal", "wrapped"):
            raise ValueError(f"metric must be 'chordal' or 'wrapped', got {metric!r}")
        if metric == "wrapped" and (domain is None or domain.flat):
            raise ValueError("metric='wrapped' is a distance on a Torus: pass domain=Torus(...)")
        self.target = _probability(as_measure(target, domain, cells))
        self.domain, self.metric = domain, metric
        self.coordinates = self.self_distance = None
        points, masses = self.target.points, self.target.weights
        ordered = self._ordered(None)
        if ordered is None and domain is None and on_unit_circle(points):
            # A flow on the circle may ask for either form later; the sort gives both constants.
            self.coordinates = angles(Sphere(1), points)
            self.self_distance = -circle_energy(self.coordinates, masses)
        elif ordered is not None:
            self.coordinates = _places(ordered, points)
        else:
            self.self_distance = self._mean_distance(self.target, self.target, self.target.dtype)

    def _ordered(self, flow: Flow | None) -> Domain | None:
        """The line or the circle on which sorting applies."""
        if self.metric == "wrapped":
            return None
        if self.domain is not None:
            return self.domain if _sortable(self.domain) else None
        if self.target.points.shape[-1] == 1:
            return Euclidean(1)
        if flow is None or self.coordinates is None:
            return None
        # The target lies on the unit circle: so must the flow.
        return Sphere(1) if is_unit_circle(flow.domain) else None

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.target.points.shape[-1])
        check_flow_domain(flow, self.domain)
        ordered = self._ordered(flow)
        mu = _probability(mu)
        target, dtype = self.target, mu.dtype
        if ordered is None:
            own = known(self.self_distance)
            own = own if own.dtype == dtype else self._mean_distance(target, target, dtype)
            value = 2 * self._mean_distance(mu, target, dtype) - self._mean_distance(mu, mu, dtype)
            return jnp.maximum(value - own, 0)
        there = target.weights.astype(dtype)
        masses = jnp.concatenate([mu.weights, -there / jnp.sum(there)])
        here = _places(ordered, mu.points)
        places = known(self.coordinates)
        places = places if places.dtype == dtype else _places(ordered, target.points.astype(dtype))
        coordinates = jnp.concatenate([here, places])
        if not ordered.closed[0]:
            return jnp.maximum(line_energy(coordinates, masses), 0)
        radius = ordered.lengths.astype(mu.dtype)[0] / (2 * jnp.pi)
        return jnp.maximum(radius * circle_energy(coordinates, masses), 0)

    def _mean_distance(self, mu: Measure, nu: Measure, dtype: Any) -> Float[Array, ""]:
        """int int |x - y| dmu(x) dnu(y) of their laws in a precision, a block of rows at a time."""
        (x, here), (y, there) = ((m.points.astype(dtype), m.weights.astype(dtype)) for m in (mu, nu))
        here, there = here / jnp.sum(here), there / jnp.sum(there)
        vector = lambda a, b: a - b
        if self.metric == "wrapped":
            vector = known(self.domain).displacement
        elif self.domain is not None:
            vector = self.domain.chord

        # Recomputed in reverse mode, which would otherwise keep every block.
        @jax.checkpoint
        def row(a):
            return _sum(jax.vmap(lambda b: safe_norm(vector(a, b)))(y) * there)

        return _sum(here * jax.lax.map(row, x, batch_size=ROWS))


def _sortable(domain: Domain) -> bool:
    """Whether chordal distances are those of a line or of a round circle."""
    return domain.dim == 1 and (domain.product_of_circles or (domain.flat and domain.ambient == 1))


def _places(domain: Domain, points: Array) -> Array:
    """Arc length on a line, angles on a circle."""
    return angles(domain, points) if domain.closed[0] else arc_length(domain, points)


def _probability(mu: Measure) -> Measure:
    return eqx.tree_at(lambda nu: nu.weights, mu, mu.weights / mu.mass)


def _sum(values: Array) -> Array:
    """A sum in two levels: one long accumulation would lose the digits that the difference needs."""
    size = values.shape[0]
    short = max(1, round(size**0.5))
    padded = jnp.pad(values, (0, -size % short)).reshape(-1, short)
    return jnp.sum(jnp.sum(padded, axis=1))
