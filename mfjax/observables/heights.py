"""The distance between two networks with a height over each feature."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import kind, safe_sqrt
from mfjax.domains import Domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, check_dimension
from mfjax.observables.coupling import transport_cost


class HeightDistance(Observable):
    """The transport distance of networks that also counts the difference of their heights.

    D = (inf over couplings of int |theta_1 - theta_2|^2 + |H_1(theta_1) - H_2(theta_2)|^2)^(1/2).

    The distance of pairs (rho, H) of Remark 3.4 of the survey, for which `flows.PropagationOfChaos` is the
    gradient flow: the 2-Wasserstein distance of the laws of (theta, H). Of two measures with the mark "H",
    both scaled to mass one; |theta_1 - theta_2| is the length of `domain.displacement`.

    - `target`: a measure with the mark "H", particles or a grid of K points.
    - `domain`: where theta lives (on a torus distances wrap; on a sphere they are chords).

    Exact up to rounding, by an `optimal_coupling` found on the host. **Good values** M, K <= 1000.
    Differentiable where the best coupling is unique, with derivative zero at distance zero.

    **Raises** `ValueError` for measures without the mark "H" or of another dimension.

    >>> import mfjax as mf
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
        if not isinstance(domain, Domain):
            raise ValueError(f"domain must be a Domain, got {kind(domain)}")
        domain.validate(target.points, "target")
        _height(target)
        self.target, self.domain = target, domain

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.domain.ambient)
        points, height = self.target.points.astype(mu.dtype), _height(self.target).astype(mu.dtype)
        over = lambda f: jax.vmap(jax.vmap(f, in_axes=(None, 0)), in_axes=(0, None))
        gap = over(self.domain.displacement)(mu.points, points)
        cost = jnp.sum(gap * gap, axis=-1) + (_height(mu)[:, None] - height) ** 2
        source, target = mu.weights / mu.mass, (self.target.weights / self.target.mass).astype(mu.dtype)
        return safe_sqrt(transport_cost(cost, source, target))


def _height(mu: Measure) -> Float[Array, " K"]:
    if "H" not in mu.marks or mu.marks["H"].ndim != 1:
        raise ValueError("a HeightDistance is between measures with the mark 'H', one number a point")
    return mu.marks["H"]
