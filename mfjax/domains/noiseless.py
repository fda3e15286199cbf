"""A domain on which points move without noise."""

from mfjax.domains.base import Domain
from mfjax.domains.wrapped import Wrapped


class Noiseless(Wrapped):
    """A domain along which points move and noise does not reach: degenerate diffusion in a product.

    - `domain`: where the points are, and how they move.

    Energies move points along it as on `domain`; an `energies.Entropy` does nothing there: no noise on
    particles, and on a grid limited transport in place of diffusion. On `Product(Theta, Noiseless(A))`
    `flows.Wasserstein(F + T * Entropy(), ...)` is thus d_t rho = div(rho grad V) + T Laplacian_theta rho: the
    law of particles of which theta alone is noisy. It is no gradient flow, and the energy may rise.

    **Raises** `ValueError` unless `domain` is a `Domain`.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> pairs = mf.domains.Product(mf.domains.Torus(1), Noiseless(mf.domains.Euclidean(1)))
    >>> x, v = jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])
    >>> pairs.velocity(x, v).tolist(), pairs.noise(x, v).tolist()
    ([1.0, 1.0], [1.0, 0.0])
    """

    def __init__(self, domain: Domain):
        super().__init__(domain)

    def noise(self, x, v):
        return 0 * v

    @property
    def noiseless(self) -> bool:
        return self.tangent_dim > 0

    def diffuse(self, x, v):
        return self.retract(x, v)

    @property
    def log_sobolev(self):
        return 0 * self.domain.log_sobolev

    def cells(self, n):
        cells = self.domain.cells(n)
        moving = tuple(axis for axis in range(len(cells.shape)) if axis not in cells.frozen)
        return cells._replace(noiseless=moving)
