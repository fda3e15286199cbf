"""The Sobolev distance of any order to a target, by harmonics of the domain."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import count, safe_sqrt, scalar
from mfjax._numerics.sums.rows import sum_of_rows
from mfjax.domains import Domain, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, as_measure, check_dimension


class SobolevNorm(Observable):
    """The distance to a target in a homogeneous Sobolev norm of either sign.

    |mu - target| in dot-H^r, of square sum_n lambda_n^r (int e_n d(mu - target))^2, where -Laplacian e_n =
    lambda_n e_n, lambda_n > 0, and the e_n are orthonormal in volume.

    The constant is left out: masses do not count, and are not scaled. At r = 0 it is the L^2 distance of
    densities, at r = 1 that of their gradients; half the square at r = -s is `energies.Sobolev` of order s,
    and -s = -(d + 3) / 2 on S^d has the strength of the population risk of ReLU.

    - `target`: a measure, points (M, d), or a density of one point, as for `EnergyDistance`.
    - `order` r: any number, a leaf.
    - `domain`: one that has `harmonics`: circles, tori, `Interval`, `Box`, `Sphere(2)`, `Zonal(d)`.
    - `degree`: of the highest harmonics, along each axis of a torus or a box. Good values: up to half the
      cells of a grid along an axis. Particles have an infinite norm for r >= -d/2, whose value grows with the
      degree.

    **Cost**: that of all harmonics at all points, of which there are (2 degree + 1)^d - 1 on a torus, and
    (degree + 1)^2 - 1 on `Sphere(2)`, in blocks.

    **Raises** `ValueError` where no harmonics are known.

    >>> import mfjax as mf
    >>> zones = mf.domains.Zonal(2)
    >>> mu = mf.measures.Grid.from_density(zones, 256, lambda x: 1 + 0.3 * jnp.cos(x[0]))
    >>> slope = SobolevNorm(lambda x: jnp.ones(()), 1.0, zones, degree=8)(mu)
    >>> round(float(slope) ** 2, 5), round(2 * 0.3**2 / (3 * 4 * jnp.pi), 5)
    (0.00477, 0.00477)
    """

    coefficients: Float[Array, " n"]
    order: Float[Array, ""]
    domain: Domain
    ambient: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __init__(
        self, target: Any, order: ScalarLike, domain: Domain, degree: int = 64, *, cells: int | None = None
    ):
        require_domain(domain)
        self.domain, self.degree = domain, count(degree, "degree")
        self.order = scalar(order, "order")
        measure = as_measure(target, domain, cells)
        self.ambient = measure.points.shape[-1]
        self.coefficients = self._seen(measure)[0]

    def _seen(self, mu: Measure) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """What each harmonic sees of a measure, and its eigenvalue."""
        harmonics = lambda x: self.domain.harmonics(x, self.degree)
        seen = sum_of_rows(lambda x: harmonics(x)[0], mu.points, mu.weights)
        return seen, harmonics(mu.points[0])[1]

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.ambient)
        seen, eigenvalues = self._seen(mu)
        gap = seen - self.coefficients.astype(mu.dtype)
        return safe_sqrt(jnp.sum(eigenvalues ** self.order.astype(mu.dtype) * gap**2))
