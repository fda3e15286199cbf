"""A kernel on the circle as features."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mfjax._numerics.arrays import as_floats, finite, is_traced, safe_sqrt
from mfjax.features.base import FeatureMap


class CircleModes(FeatureMap):
    """Fourier features on the circle of a kernel that rotations leave as it is.

    Fourier features of a rotation-invariant kernel kappa(s) = sum_k c_k e^{iks} on S^1, c_{-k} = c_k >= 0.

    Input `j` is a pair (k, parity): phi = sqrt(N a_k c_k) cos(k theta) for parity 0 and
    sqrt(N a_k c_k) sin(k theta) for parity 1, with a_0 = 1, a_k = 2 for k >= 1, and N = 2 K + 1 the number
    of inputs. The mean over `inputs()` of phi(omega) phi(omega') is then kappa(theta - theta'): with these
    "data" an energy sees the population kernel exactly, up to the truncation of the series at K.

    - `coefficients` (K + 1,): c_0, ..., c_K; `mf.problems.relu_coefficients` gives those of ReLU.

    **Raises** `ValueError` for negative coefficients (no kernel) or fewer than two, and off the circle.

    >>> modes = CircleModes([0.2, 0.1])
    >>> row = modes.matrix(jnp.array([[1.0, 0.0]]), modes.inputs())[:, 0]
    >>> round(float(jnp.mean(row**2)), 6)
    0.4
    """

    coefficients: Float[Array, " K1"]

    def __init__(self, coefficients):
        self.coefficients = finite(as_floats(coefficients, "coefficients"), "coefficients")
        if self.coefficients.ndim != 1 or self.coefficients.size < 2:
            raise ValueError(
                f"coefficients must be a vector c_0, ..., c_K, got shape {self.coefficients.shape}"
            )
        if not is_traced(self.coefficients) and float(np.min(np.asarray(self.coefficients))) < 0:
            raise ValueError("coefficients must be non-negative: kappa is a positive semidefinite kernel")

    def validate(self, points, domain=None):
        if points.shape[1] != 2 or not (domain is None or (domain.dim, domain.ambient) == (1, 2)):
            place = f"points of {points.shape[1]} coordinates" if domain is None else repr(domain)
            raise ValueError(f"these are features on Sphere(1), and the measure moves on {place}")

    def inputs(self) -> Float[Array, "N 2"]:
        """The index set (k, parity): parity 0 for cosines, 1 for sines; N = 2 K + 1."""
        degree = self.coefficients.shape[0] - 1
        k = jnp.concatenate([jnp.arange(degree + 1), jnp.arange(1, degree + 1)])
        parity = jnp.concatenate([jnp.zeros(degree + 1), jnp.ones(degree)])
        return jnp.stack([k, parity], axis=-1).astype(self.coefficients.dtype)

    def _amplitude(self, k):
        n = 2 * self.coefficients.shape[0] - 1
        c = self.coefficients.astype(k.dtype)[k.astype(int)]
        return safe_sqrt(n * c * jnp.where(k == 0, 1.0, 2.0))

    def __call__(self, omega, x):
        k, parity = x[0], x[1]
        angle = jnp.arctan2(omega[1], omega[0])
        return self._amplitude(k) * jnp.where(parity == 0, jnp.cos(k * angle), jnp.sin(k * angle))

    def image(self, fourier: Complex[Array, " K1"]) -> Float[Array, " N"]:
        """int phi(omega, x_j) dnu at `inputs()`, from the moments int e^{ik theta} dnu for k = 0, ..., K."""
        k, parity = self.inputs().T
        moment = fourier[k.astype(int)]
        return self._amplitude(k) * jnp.where(parity == 0, moment.real, moment.imag)
