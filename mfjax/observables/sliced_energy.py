"""The energy distance in several dimensions by projections to lines."""

from math import gamma, pi
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from mfjax._numerics.arrays import count, inner
from mfjax.domains import Domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, as_measure, check_dimension, check_flow_domain
from mfjax.observables.sorted_energy import line_energy


class SlicedEnergyDistance(Observable):
    """The squared energy distance in any dimension, estimated from projections to lines.

    MMD^2 = 2 E|A - B| - E|A - A'| - E|B - B'| from P projections to lines: time O(P (M + K) log(M + K)).

    For theta uniform on the unit sphere of R^d, E|theta . z| = c_d |z|, c_d = G(d/2) / (sqrt(pi) G((d+1)/2))
    with the Gamma function G (c_2 = 2/pi, c_3 = 1/2). So the energy distance of `EnergyDistance` is the mean
    over theta of that between the projected measures, over c_d; here the mean over P fixed directions:

    - d = 2: equal angles pi / P, offset by half of one. |z| is met with a relative error of at most
      pi^2 / (12 P^2), the value with that part of 2 E|A - B| + E|A - A'| + E|B - B'|.
    - otherwise independent uniform directions from `key`, the same at every call: the error has mean 0 over
      keys and the standard deviation std(terms) / sqrt(P) of `terms`. The value is zero for equal measures,
      and never negative; **it may vanish elsewhere** where P is smaller than what separates the measures.

    - `target`: a measure, points (M, d) of equal masses, or a density of one point on `domain`.
    - `projections` P: 64 leaves a standard deviation of 9.4 % for two standard normal clouds whose means
      are 6 apart in d = 3.
    - `domain`: distances are between `domain.embed` of the points; a flow on a torus needs it.

    Both measures are scaled to mass one. Memory is O(M + K) in reverse mode too.

    **Raises** `ValueError` for d > 2 without a key, and as `EnergyDistance` does.

    >>> import mfjax as mf
    >>> obs = SlicedEnergyDistance(jnp.array([[3.0, 4.0]]), projections=256)
    >>> round(float(obs(mf.measures.Particles(jnp.array([[0.0, 0.0]])))), 3)
    10.0
    """

    target: Measure
    # (P, d), unit vectors.
    directions: Float[Array, "P d"]
    domain: Domain | None

    def __init__(
        self,
        target: Any,
        domain: Domain | None = None,
        *,
        projections: int = 64,
        key: Key[Array, ""] | None = None,
        cells: int | None = None,
    ):
        self.target, self.domain = as_measure(target, domain, cells), domain
        number, dim = count(projections, "projections"), self._embedded(self.target).shape[1]
        if dim == 1:
            self.directions = jnp.ones((1, 1), self.target.dtype)
        elif dim == 2 and key is None:
            angles = (np.arange(number) + 0.5) * pi / number
            self.directions = jnp.asarray(
                np.stack([np.cos(angles), np.sin(angles)], axis=1), self.target.dtype
            )
        elif key is None:
            raise ValueError(
                f"directions in dimension {dim} are drawn at random: pass key=jax.random.key(seed)"
            )
        else:
            normal = jr.normal(key, (number, dim), self.target.dtype)
            self.directions = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_flow_domain(flow, self.domain)
        return jnp.mean(self.terms(mu))

    def terms(self, mu: Measure) -> Float[Array, " P"]:
        """The estimate by each direction, of which the value is the mean."""
        check_dimension(mu, self.target.points.shape[-1])
        x, y = self._embedded(mu), self._embedded(self.target).astype(mu.dtype)
        here, there = mu.weights / mu.mass, (self.target.weights / self.target.mass).astype(mu.dtype)
        points, masses = jnp.concatenate([x, y]), jnp.concatenate([here, -there])
        dim = points.shape[1]
        constant = gamma(dim / 2) / (pi**0.5 * gamma((dim + 1) / 2))

        # Sorted again in reverse mode instead of being stored.
        @jax.checkpoint
        def term(direction):
            return jnp.maximum(line_energy(inner(points, direction), masses), 0) / constant

        return jax.lax.map(term, self.directions.astype(mu.dtype))

    def _embedded(self, mu: Measure) -> Array:
        return mu.points if self.domain is None else jax.vmap(self.domain.embed)(mu.points)
