"""A kernel on a sphere as features of zones."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, finite, inner, is_traced, safe_sqrt
from mfjax._numerics.harmonics import multiplicities, zonal_harmonics
from mfjax.domains import Zonal
from mfjax.features.base import FeatureMap


class ZonalModes(FeatureMap):
    """Zonal harmonics as features on the zones of a sphere, of a kernel that rotations leave as it is.

    The kernel is kappa(x . y) = sum_l c_l N_l P_l(x . y) on S^d, c_l >= 0, l = 0, ..., L, with P_l the
    Gegenbauer polynomial of value one at one and N_l the number of harmonics of degree l.

    Input `j` is a degree l: phi = sqrt((L + 1) c_l N_l) P_l(cos theta). The mean over `inputs()` of
    phi(theta) phi(theta') is then kappa averaged over two orbits (`kernels.ZonalKernel`), by the addition
    theorem: with these "data" an energy on `domains.Zonal(d)` sees the population kernel exactly, up to the
    truncation at L. On the circle, d = 1, they are the cosines among `CircleModes` of the same coefficients.

    - `coefficients` (L + 1,): c_0, ..., c_L, the eigenvalues of kappa under the uniform law;
      `mf.problems.relu_coefficients(0.0, L, d)` gives those of ReLU.
    - `dim` >= 1: the dimension d of the sphere.

    **Fails** in single precision at high degrees of high dimensions: features have the rounding error of
    sqrt(N_l), which is 1e4 at l = 16 on S^10.

    **Raises** `ValueError` for negative coefficients (no kernel) or fewer than two, and on other domains.

    >>> modes = ZonalModes([0.2, 0.1], dim=2)
    >>> row = modes.matrix(jnp.zeros((1, 1)), modes.inputs())[:, 0]
    >>> round(float(jnp.mean(row**2)), 6)
    0.5
    """

    coefficients: Float[Array, " L1"]
    table: Float[Array, "L1 L1"]
    multiplicities: Float[Array, " L1"]
    domain: Zonal

    def __init__(self, coefficients, dim: int):
        self.coefficients = finite(as_floats(coefficients, "coefficients"), "coefficients")
        if self.coefficients.ndim != 1 or self.coefficients.size < 2:
            raise ValueError(
                f"coefficients must be a vector c_0, ..., c_L, got shape {self.coefficients.shape}"
            )
        if not is_traced(self.coefficients) and float(np.min(np.asarray(self.coefficients))) < 0:
            raise ValueError("coefficients must be non-negative: kappa is a positive semidefinite kernel")
        self.domain, degree = Zonal(dim), self.coefficients.size - 1
        self.table = jnp.asarray(zonal_harmonics(degree, dim), jnp.result_type(float))
        self.multiplicities = jnp.asarray(multiplicities(degree, dim), jnp.result_type(float))

    def validate(self, points, domain=None):
        if domain is not None and not self.domain.agrees(domain):
            raise ValueError(f"these are features on {self.domain!r} and the measure moves on {domain!r}")

    def inputs(self) -> Float[Array, "L1 1"]:
        """The degrees l = 0, ..., L."""
        return jnp.arange(self.coefficients.size, dtype=self.coefficients.dtype)[:, None]

    def _amplitude(self, degree):
        c, n = (a.astype(degree.dtype)[degree.astype(int)] for a in (self.coefficients, self.multiplicities))
        return safe_sqrt(self.coefficients.size * c * n)

    def __call__(self, omega, x):
        row = self.table.astype(omega.dtype)[x[0].astype(int)]
        waves = jnp.cos(jnp.arange(row.size, dtype=omega.dtype) * omega[0])
        return self._amplitude(x[0]).astype(omega.dtype) * inner(row, waves)

    def image(self, moments: Float[Array, " L1"]) -> Float[Array, " L1"]:
        """int phi(theta, x_j) dnu at `inputs()`, from the moments int P_l dnu for l = 0, ..., L."""
        return self._amplitude(self.inputs()[:, 0]) * moments
