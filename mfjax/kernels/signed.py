"""The kernel of signed measures."""

from collections.abc import Callable

from jaxtyping import Array, Float

from mfjax.domains import Signed
from mfjax.kernels.base import Kernel, require_kernel


class SignedKernel(Kernel):
    """A kernel for points whose first coordinate is their sign.

    ((s, x), (s', y)) -> s s' k(x, y), for points whose first coordinate is their sign s = +1 or -1.

    A measure of such points stands for the signed measure sum_i s_i m_i delta(x_i); its discrepancies are
    those of the signed measures, and the potentials of the two species are V and -V. Any number is
    allowed for s.

    >>> import jax.numpy as jnp
    >>> from mfjax.kernels import Distance
    >>> float(SignedKernel(Distance())(jnp.array([1.0, 0.0]), jnp.array([-1.0, 2.0])))
    2.0
    """

    kernel: Callable[[Array, Array], Array]

    def __init__(self, kernel: Callable):
        require_kernel(kernel)
        self.kernel = kernel

    @property
    def conditional(self):
        return getattr(self.kernel, "conditional", False)

    def mass(self, points, weights):
        return (points[:, 0] * weights).sum()

    def validate(self, domain):
        if isinstance(self.kernel, Kernel):
            self.kernel.validate(domain.domain if isinstance(domain, Signed) else domain)

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return x[0] * y[0] * self.kernel(x[1:], y[1:])

    def sums(self, points, sources, weights):
        if not isinstance(self.kernel, Kernel):
            return None
        sums = self.kernel.sums(points[:, 1:], sources[:, 1:], weights * sources[:, 0])
        return None if sums is None else points[:, 0] * sums
