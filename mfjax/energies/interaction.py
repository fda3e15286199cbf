"""The energy of pairwise interaction."""

from collections.abc import Callable

from jaxtyping import Array

from mfjax.energies.base import Energy, Solution
from mfjax.energies.convolution import check_kernel, convolution, convolution_at, convolution_slopes
from mfjax.energies.field import Field
from mfjax.kernels.base import require_kernel
from mfjax.measures import Measure


class Interaction(Energy):
    """The energy of particles that act on each other in pairs.

    F(mu) = 1/2 int int W(x, y) dmu(x) dmu(y), with first variation V = int W(., y) dmu(y).

    `kernel(x, y)` is a symmetric function W of two points, such as an `mf.kernels` object or a function of
    |x - y|; attraction where it grows with distance. Particles also act on themselves, by W(x, x) / 2 times
    their mass squared, which must be finite: a constant moves nothing, other kernels (Stein discrepancies)
    mean it. An unsymmetric W has another first variation, which this is not.

    **Raises** `ValueError` for a kernel of `mf.kernels` that takes distances on another domain than the flow.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0], [2.0]]))
    >>> float(Interaction(lambda x, y: jnp.sum((x - y) ** 2))(mu))
    1.0
    """

    kernel: Callable[[Array, Array], Array]

    def __init__(self, kernel: Callable):
        require_kernel(kernel)
        self.kernel = kernel

    def validate(self, mu, domain=None):
        check_kernel(self.kernel, domain, mu.points[0])

    def solve(self, mu, carry=None):
        value = 0.5 * mu.integrate(convolution(self.kernel, mu, mu.points).astype(mu.dtype))
        return Solution(value, InteractionPotential(self.kernel, mu))


class InteractionPotential(Field):
    """x -> int W(x, y) dmu(y)."""

    kernel: Callable
    mu: Measure

    def __call__(self, point: Array) -> Array:
        return convolution_at(self.kernel, self.mu, point).astype(point.dtype)

    def at(self, points):
        return convolution(self.kernel, self.mu, points).astype(points.dtype)

    def slopes(self, points):
        return convolution_slopes(self.kernel, self.mu, points)
