"""The distance between two networks with a height over each feature."""

from typing import Any

import jax
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import safe_sqrt, scalar
from mfjax.domains import Domain, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure, Particles
from mfjax.observables.base import Observable, check_dimension
from mfjax.observables.coupling import optimal_coupling, transport_cost
from mfjax.observables.transport import check_connected, distances


class HeightDistance(Observable):
    """The transport distance of networks that also counts the difference of their heights.

    D = (inf over couplings of int |theta_1 - theta_2|^2 + |H_1(theta_1) - H_2(theta_2)|^2)^(1/2).

    The distance of pairs (rho, H) of Remark 3.4 of the survey, for which `flows.PropagationOfChaos` is the
    gradient flow: the 2-Wasserstein distance of the laws of (theta, H). Of two measures with the mark "H",
    both scaled to mass one; |theta_1 - theta_2| is `domain.distance`, as for `WassersteinDistance`.

    - `target`: a measure with the mark "H", particles or a grid of K points.
    - `domain`: where theta lives (on a torus distances wrap, on a sphere they go along great circles).

    Exact up to rounding, by an `optimal_coupling` found on the host. **Good values** M, K <= 1000.
    Differentiable where the best coupling is unique, with derivative zero at distance zero. `geodesic` is the
    way from one to the other. (The dynamic form of the survey has |v|^2 (1 + |H'|^2), which is no squared
    speed; it is |v|^2 + |H'|^2, H' along v.)

    **Raises** `ValueError` for measures without the mark "H" or of another dimension, and for a domain of
    signs or frozen coordinates.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> line = mf.domains.Euclidean(1)
    >>> mu = mf.measures.Particles(jnp.array([[0.0], [3.0]]), marks={"H": jnp.array([0.0, 4.0])})
    >>> nu = mf.measures.Particles(jnp.array([[3.0], [0.0]]), marks={"H": jnp.array([4.0, 2.0])})
    >>> round(float(HeightDistance(nu, line)(mu)) ** 2, 6)
    2.0
    """

    target: Measure
    domain: Domain

    def __init__(self, target: Any, domain: Domain):
        if not isinstance(target, Measure):
            raise ValueError(f"target must be a measure with the mark 'H', got {type(target).__name__}")
        require_domain(domain)
        check_connected(domain)
        domain.validate(target.points, "target")
        _height(target)
        self.target, self.domain = target, domain

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        return safe_sqrt(transport_cost(*self._problem(mu)[-1]))

    def geodesic(self, mu: Measure, share: ScalarLike) -> Particles:
        """The pair at the share s of the way from `mu` to the target, along a shortest path of D.

        The mass P_ij that the best coupling sends from i to j is at theta_i + s (theta_j - theta_i), with the
        height H_i + s (H_j - H_i): M K particles of total mass one, most of them padding. D to `mu` is s D,
        and to the target (1 - s) D. Paths may cross: on the way there can be several heights over one place,
        and pairs with one height over each are not geodesically convex.

        **Raises** `ValueError` on a sphere, where displacements are chords.
        """
        if self.domain.ambient != self.domain.dim:
            raise ValueError(f"displacements on {self.domain!r} are chords, along which nothing can move")
        rise, problem = self._problem(mu)
        plan = optimal_coupling(*problem)
        apart = jax.vmap(jax.vmap(self.domain.displacement, in_axes=(None, 0)), in_axes=(0, None))
        gap = apart(mu.points, self.target.points.astype(mu.dtype))
        s = scalar(share, "share").astype(mu.dtype)
        move = jax.vmap(jax.vmap(self.domain.retract, in_axes=(None, 0)))
        points, height = move(mu.points, -s * gap), _height(mu)[:, None] - s * rise
        return Particles(points.reshape(plan.size, -1), plan.ravel(), marks={"H": height.ravel()})

    def _problem(self, mu: Measure) -> tuple[Array, tuple[Array, Array, Array]]:
        """How far the heights of each pair are apart, mu minus target; the costs (M, K) and masses."""
        check_dimension(mu, self.domain.ambient)
        points, height = self.target.points.astype(mu.dtype), _height(self.target).astype(mu.dtype)
        lengths, rise = distances(self.domain, mu.points, points), _height(mu)[:, None] - height
        source, target = mu.weights / mu.mass, (self.target.weights / self.target.mass).astype(mu.dtype)
        return rise, (lengths**2 + rise**2, source, target)


def _height(mu: Measure) -> Float[Array, " K"]:
    if "H" not in mu.marks or mu.marks["H"].ndim != 1:
        raise ValueError("a HeightDistance is between measures with the mark 'H', one number a point")
    return mu.marks["H"]
