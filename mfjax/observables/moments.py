"""Moments and Fourier coefficients of a measure."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count, inner
from mfjax.domains import Domain, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, angles, one_dimensional


class Moments(Observable):
    """E[X (x) ... (x) X], a tensor of shape (d,) * order, of X ~ mu scaled to mass one.

    `order` 1 is the mean (d,). With `central=True` the mean is subtracted first: order 2 is the
    covariance (d, d), without Bessel's correction. Coordinates are the ambient ones, so that the mean of a
    measure on a sphere lies inside it; on a torus use `FourierModes`.

    **Raises** `ValueError` for order < 1, and for central moments of order 1, which vanish.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> Moments(1)(mu).tolist(), Moments(2, central=True)(mu).tolist()
    ([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    order: int = eqx.field(static=True)
    central: bool = eqx.field(static=True)

    def __init__(self, order: int = 1, central: bool = False):
        self.order, self.central = count(order, "order"), bool(central)
        if self.central and self.order == 1:
            raise ValueError("central moments start at order 2: the first is zero")

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, "..."]:
        weights, points = mu.weights / mu.mass, mu.points
        if self.central:
            points = points - inner(weights, points)
        powers = points
        for _ in range(self.order - 1):
            powers = powers[..., None] * points.reshape((mu.size,) + (1,) * (powers.ndim - 1) + (-1,))
        return jnp.tensordot(weights, powers, 1, precision="highest")


class FourierModes(Observable):
    """The first Fourier modes of a measure on a circle.

    (int cos(2 pi k x / L) dmu, int sin(2 pi k x / L) dmu) for k = 0, ..., n: an array (n + 1, 2).

    x is arc length on a circle of circumference L: the angle on `Sphere(1)`, the coordinate on `Torus(1)`.
    With c_k = int e^(-2 pi i k x / L) dmu the columns are Re c_k and -Im c_k. The circle is `domain`, or
    that of the flow.

    **Raises** `ValueError` where there is no circle.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.125]]))
    >>> FourierModes(2, mf.domains.Torus(1))(mu)[:2].round(3).tolist()
    [[1.0, 0.0], [0.707..., 0.707...]]
    """

    n: int = eqx.field(static=True)
    domain: Domain | None

    def __init__(self, n: int, domain: Domain | None = None):
        self.n = count(n, "n", minimum=0)
        self.domain = None if domain is None else _circle(domain)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, "modes 2"]:
        domain = self.domain if self.domain is not None or flow is None else flow.domain
        phase = jnp.arange(self.n + 1, dtype=mu.dtype)[:, None] * angles(_circle(domain), mu.points)
        return jnp.stack([inner(jnp.cos(phase), mu.weights), inner(jnp.sin(phase), mu.weights)], axis=-1)


def _circle(domain: Domain | None) -> Domain:
    require_domain(domain, optional=True)
    if domain is None or not one_dimensional(domain) or not domain.closed[0]:
        raise ValueError(
            f"Fourier modes need a circle, domain=Sphere(1) or Torus(1) or that of the flow, got {domain!r}"
        )
    return domain
