"""Exact Wasserstein distances in any dimension."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from mfjax._numerics.arrays import safe_sqrt
from mfjax.domains import Domain, Euclidean, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, as_measure, check_dimension, one_dimensional
from mfjax.observables.coupling import transport_cost
from mfjax.observables.wasserstein import Wasserstein1D, check_order


class WassersteinDistance(Observable):
    """The exact Wasserstein distance to a target, in any dimension.

    W_p(mu, target) = (inf over couplings of int d(x, y)^p)^(1/p), p = `order` 1 or 2, d the length of the
    shortest path, `domain.distance`: along great circles of a sphere, the shorter way around a torus.

    - `target`: a measure, particles or a grid, points (K, d) of equal masses, or a density of one point on
      `domain` (then on `cells` cells per axis). Cells are atoms at their centers.
    - `domain`: where the points live; flat space unless given.

    Both measures are scaled to mass one. A line or a circle is left to `Wasserstein1D`, which sorts.
    Elsewhere the coupling is found on the host, in double precision: an assignment for points of equal number
    and equal masses, otherwise a linear program (`mf.theory.optimal_coupling` says what each costs). In
    compiled runs and sweeps this is a `jax.pure_callback`, at saved times alone; members of a `vmap` come one
    after the other. **Good values** M, K <= 1000; `SinkhornDivergence` beyond, and without a host.

    Derivatives in points and masses are those of the envelope theorem, with the coupling held: right where
    the best coupling is unique, hence almost everywhere; zero at distance zero. In points there are second
    ones, too.

    **Raises** `ValueError` for another order, points of another dimension, a domain of signs or frozen
    coordinates, and for a flow on a domain that is not flat without `domain`. The value is NaN where a point
    or a mass is.

    Source: the distances of Theorem 4.1 and Corollary 4.1 of the VarPro paper.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0, 0.0], [5.0, 5.0], [1.0, 2.0]]))
    >>> round(float(WassersteinDistance(mu.points[::-1] + jnp.array([3.0, 4.0]), order=2)(mu)), 6)
    5.0
    """

    target: Measure
    domain: Domain | None
    sorted: Wasserstein1D | None
    order: int = eqx.field(static=True)

    def __init__(
        self, target: Any, order: int = 1, domain: Domain | None = None, *, cells: int | None = None
    ):
        self.order, self.domain = check_order(order), domain
        check_connected(domain)
        self.target, self.sorted = as_measure(target, domain, cells), None
        if one_dimensional(domain):
            self.sorted = Wasserstein1D(self.target, self.order, domain)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.target.points.shape[-1])
        check_lengths(flow, self.domain)
        if self.sorted is not None:
            return self.sorted(mu, flow)
        lengths = distances(self.domain, mu.points, self.target.points.astype(mu.dtype))
        here, there = mu.weights / mu.mass, (self.target.weights / self.target.mass).astype(mu.dtype)
        cost = transport_cost(lengths if self.order == 1 else lengths**2, here, there)
        return cost if self.order == 1 else safe_sqrt(cost)


def distances(domain: Domain | None, x: Float[Array, "M d"], y: Float[Array, "K d"]) -> Float[Array, "M K"]:
    """The lengths of the shortest paths from each x to each y; in flat space without a domain."""
    distance = (Euclidean(x.shape[-1]) if domain is None else domain).distance
    return jax.vmap(lambda a: jax.vmap(lambda b: distance(a, b))(y))(x)


def check_lengths(flow: Flow | None, domain: Domain | None) -> None:
    """**Raises** `ValueError` without `domain` where paths of the flow are no straight lines."""
    if (
        domain is None
        and flow is not None
        and not (flow.domain.flat and flow.domain.ambient == flow.domain.dim)
    ):
        raise ValueError(
            f"this flow moves on a {type(flow.domain).__name__}, whose shortest paths are no straight lines: "
            "pass domain= to the observable"
        )


def check_connected(domain: Domain | None) -> None:
    """**Raises** `ValueError` where some points of `domain` are infinitely far apart."""
    require_domain(domain, optional=True)
    if domain is not None and not domain.connected:
        raise ValueError(
            f"points that differ in a sign or a frozen coordinate of {domain!r} are infinitely far apart: "
            "take the distance of those of one place, on its other factors"
        )
