"""A kernel of a sphere between the orbits of rotations about an axis."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count
from mfjax.domains import Zonal
from mfjax.kernels.base import Kernel, require_kernel
from mfjax.kernels.sums import kernel_sums


class ZonalKernel(Kernel):
    """The kernel of a sphere averaged over rotations about its axis, for measures on `domains.Zonal`.

    K(theta, phi) = int k(x, y_c) w(c) dc, w(c) ~ (1 - c^2)^{(d - 3)/2} on [-1, 1], of integral one,

    x . y_c = cos theta cos phi + c sin theta sin phi: the mean of k over the orbits of polar angles theta and
    phi, so that energies and potentials are those of the zonal measures on S^d that two measures on
    `Zonal(d)` stand for. On the circle, d = 1, an orbit is two points, c = 1 and c = -1.

    - `kernel(x, y)`: a function k of two points of R^{d + 1} that rotations leave as it is, such as
      `ArcCosine()`, `Gaussian(scale)`, `Distance()`, `lambda x, y: jnp.exp(x @ y)`; distances are chords.
    - `dim` >= 1: the dimension d of the sphere.
    - `nodes` Q: points of an orbit, those of Gauss-Gegenbauer quadrature, exact in c to degree 2 Q - 1.
      Where k is smooth the error falls faster than any power: 16 leave rounding for `Gaussian(0.3)`, 32 for
      `Gaussian(0.2)`. A kink |x - y|^p leaves an error of order Q^{-(p + d - 1)}, greatest at theta = phi:
      of 32 nodes on S^2, S^3, S^10 that is 2e-8, 2e-9, 6e-15 for `ArcCosine` (p = 3), and 1e-4, 6e-6, 5e-12
      for `Distance` (p = 1). None on S^1.

    **Cost**: that of Q sources on the sphere for each point of a measure.

    **Raises** `ValueError` for d < 1 or Q < 1, and on other domains than `Zonal(d)`.

    Source: the Funk-Hecke formula; Gauss-Gegenbauer nodes by SciPy.

    >>> kernel = ZonalKernel(lambda x, y: (x @ y) ** 2, 2)
    >>> pole, equator = jnp.zeros(1), jnp.full(1, jnp.pi / 2)
    >>> round(float(kernel(equator, equator)), 6), round(float(kernel(pole, equator)), 6)
    (0.5, 0.0)
    """

    kernel: Callable[[Array, Array], Array]
    domain: Zonal
    # Unit vectors of R^d, the directions of points of an orbit away from the axis, and their shares of it.
    around: Float[Array, "Q d"]
    shares: Float[Array, " Q"]

    def __init__(self, kernel: Callable, dim: int, nodes: int = 32):
        require_kernel(kernel)
        self.kernel, self.domain = kernel, Zonal(dim)
        cosine, share = orbit_nodes(count(dim, "dim"), count(nodes, "nodes"))
        around = np.zeros((len(cosine), dim))
        around[:, 0] = cosine
        if dim > 1:
            around[:, 1] = np.sqrt((1 - cosine) * (1 + cosine))
        self.around, self.shares = (jnp.asarray(a, jnp.result_type(float)) for a in (around, share))

    @property
    def conditional(self):
        return getattr(self.kernel, "conditional", False)

    def validate(self, domain):
        if not self.domain.agrees(domain):
            raise ValueError(
                f"this kernel is between the orbits of {self.domain!r} and the measure moves on {domain!r}: "
                "both need the dimension of one sphere"
            )

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        values = jax.vmap(self.kernel, (None, 0))(self._lifted(x), self._orbit(y))
        # No matrix product: the sum then joins the loop over pairs, and no table of nodes is stored.
        return jnp.sum(self.shares.astype(x.dtype) * values)

    def sums(self, points, sources, weights):
        orbits = jnp.concatenate(jax.vmap(self._orbit, out_axes=1)(sources))
        masses = jnp.outer(self.shares.astype(points.dtype), weights).ravel()
        return kernel_sums(self.kernel, jax.vmap(self._lifted)(points), orbits, masses)

    def _lifted(self, x: Float[Array, " d"]) -> Float[Array, " lifted"]:
        if x.shape != (1,):
            raise ValueError(
                f"points of {self.domain!r} are angles (theta,), got a point of shape {x.shape}: points of "
                "the sphere itself have the angles jnp.arccos(points[:, -1:])"
            )
        return self.domain.lift(x)

    def _orbit(self, y: Float[Array, " d"]) -> Float[Array, "Q lifted"]:
        lifted, around = self._lifted(y), self.around.astype(y.dtype)
        # The first coordinate of a lifted point is its distance from the axis.
        height = jnp.broadcast_to(lifted[-1:], (len(around), 1))
        return jnp.concatenate([lifted[0] * around, height], axis=1)


def orbit_nodes(dim: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of angles around the axis of S^dim, and their shares of an orbit."""
    if dim == 1:
        return np.array([1.0, -1.0]), np.array([0.5, 0.5])
    from scipy.special import roots_jacobi

    cosine, weight = roots_jacobi(nodes, (dim - 3) / 2, (dim - 3) / 2)
    return cosine, weight / weight.sum()
