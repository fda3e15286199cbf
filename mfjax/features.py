"""Feature maps phi(omega, x), written for one particle `omega` and one input `x`.

The base class batches: `features.matrix(points, inputs)` is the (N, M) matrix of phi(omega_i, x_j).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, ScalarLike

from mfjax._arrays import as_floats, finite, inner, is_traced, kind, safe_norm, safe_sqrt, scalar
from mfjax.domains import Torus


class FeatureMap(eqx.Module):
    """phi(omega, x) in R. A new map is one subclass with one method, written for one pair.

    >>> class Cosine(FeatureMap):
    ...     def __call__(self, omega, x):
    ...         return jnp.cos(omega @ x)
    >>> Cosine().matrix(jnp.zeros((3, 2)), jnp.zeros((5, 2))).shape
    (5, 3)
    """

    @abstractmethod
    def __call__(self, omega: Float[Array, " d"], x: Float[Array, " k"]) -> Float[Array, ""]:
        """The feature of particle `omega` at input `x`."""

    def matrix(self, points: Float[Array, "M d"], inputs: Float[Array, "N k"]) -> Float[Array, "N M"]:
        """All features at once, inputs along rows."""
        over_points = jax.vmap(self, in_axes=(0, None))
        return jax.vmap(over_points, in_axes=(None, 0))(points, inputs)


def require_features(features: Any) -> None:
    """**Raises** `ValueError` unless `features` is a feature map."""
    if not isinstance(features, FeatureMap):
        raise ValueError(
            f"features must be a FeatureMap, got {kind(features)}; call what makes one, as in ReLU(), and "
            "wrap a function of a particle and an input in features.Function"
        )


def check_features(features: FeatureMap, points: Array, x: Array) -> None:
    """**Raises** `ValueError` if `features` does not map one particle and one input to one number."""
    require_features(features)
    try:
        out = jax.eval_shape(features, points[0], x[0])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"features cannot be applied to a particle of shape {points.shape[1:]} and an input of shape "
            f"{x.shape[1:]}: {str(error).splitlines()[0]}"
        ) from error
    if getattr(out, "shape", None) != ():
        raise ValueError(f"features must return one number, got shape {getattr(out, 'shape', None)}")


class Ridge(FeatureMap):
    """phi(omega, x) = sigma(omega . x + bias) for an activation `sigma` of one number.

    >>> float(Ridge(jnp.tanh)(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])))
    0.0
    """

    sigma: Callable = eqx.field(static=True)
    bias: Float[Array, ""]

    def __init__(self, sigma: Callable, bias: ScalarLike = 0.0):
        if not callable(sigma):
            raise ValueError(f"sigma must be a function of one number, got {sigma!r}")
        self.sigma = sigma
        self.bias = scalar(bias, "bias")

    def __call__(self, omega, x):
        z = inner(omega, x)
        return self.sigma(z + self.bias.astype(z.dtype))


def relu(z: Array) -> Array:
    """max(z, 0), with derivative zero at the kink (as PyTorch has it)."""
    return jnp.where(z > 0, z, 0)


def ReLU(bias: ScalarLike = 0.0) -> Ridge:
    """phi(omega, x) = max(omega . x + bias, 0).

    On a sphere the bias-free map cannot see odd modes k >= 3 of a measure (relu(t) - relu(-t) = t);
    `ReLU(bias=0.5)` on S^1 sees all of them.

    >>> float(ReLU(bias=0.5)(jnp.array([1.0, 0.0]), jnp.array([-0.25, 3.0])))
    0.25
    """
    return Ridge(relu, bias)


class RBF(FeatureMap):
    """phi(omega, x) = amplitude * profile(|[omega - x]| / scale), [.] the shortest vector on `torus`.

    `profile` is "laplace", exp(-r), or "gaussian", exp(-r^2 / 2). Thesis (III.50) is
    `RBF(Torus(2, 4.0), scale=2.0, amplitude=8.0)`; the public code uses scale 0.5.

    - omega, x (dim,) on `torus`; `scale` > 0 and `amplitude` are leaves, which may be swept.
    - Good values: a scale of a few spacings of the inputs, at most a tenth of the period.

    **Fails** to be smooth at half a period from omega, where the nearest image changes: the slope jumps by a
    factor e^{-period / (2 scale)} of its largest for "laplace". The "laplace" gradient is 0 at omega = x.

    **Raises** `ValueError` for other profiles and scale <= 0.

    >>> rbf = RBF(Torus(1), scale=0.2)
    >>> round(float(rbf(jnp.array([0.9]), jnp.array([0.1]))), 4)  # exp(-0.2 / 0.2)
    0.3679
    """

    torus: Torus
    scale: Float[Array, ""]
    amplitude: Float[Array, ""]
    profile: str = eqx.field(static=True)

    def __init__(
        self, torus: Torus, *, scale: ScalarLike, amplitude: ScalarLike = 1.0, profile: str = "laplace"
    ):
        if profile not in ("laplace", "gaussian"):
            raise ValueError(f"profile must be 'laplace' or 'gaussian', got {profile!r}")
        self.torus = torus
        self.scale = scalar(scale, "scale", above=0)
        self.amplitude = scalar(amplitude, "amplitude")
        self.profile = profile

    def __call__(self, omega, x):
        vector = self.torus.displacement(omega, x) / self.scale.astype(omega.dtype)
        if self.profile == "laplace":
            value = jnp.exp(-safe_norm(vector))
        else:
            value = jnp.exp(-0.5 * jnp.sum(vector * vector))
        return self.amplitude.astype(omega.dtype) * value


class Function(FeatureMap):
    """Any function `phi(omega, x)` of one particle and one input, as a feature map.

    >>> float(Function(lambda omega, x: omega[0] * x[0])(jnp.array([2.0]), jnp.array([3.0])))
    6.0
    """

    function: Callable = eqx.field(static=True)

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"function must be callable as phi(omega, x), got {function!r}")
        self.function = function

    def __call__(self, omega, x):
        return self.function(omega, x)


class Weighted(FeatureMap):
    """Phi((w, omega), x) = w phi(omega, x): a neuron whose outer weight is its first coordinate.

    `features` is phi, on points omega (d,); this map is on points (w, omega) (1 + d,), for `energies.Risk` on
    a Euclidean domain of that dimension. Outer weights of size one at the start are a good choice; at w = 0
    omega feels no force, and where all w are 0 only they move.

    >>> float(Weighted(ReLU())(jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 5.0])))
    6.0
    """

    features: FeatureMap

    def __call__(self, omega, x):
        return omega[0] * self.features(omega[1:], x)


class Signed(Weighted):
    """Phi((s, omega), x) = s phi(omega, x) of a particle of sign s on `domains.Signed`.

    A network of positive masses then has the outer weights s_i m_i, and a potential s V(omega).

    >>> float(Signed(ReLU())(jnp.array([-1.0, 2.0]), jnp.array([3.0])))
    -6.0
    """


class CircleModes(FeatureMap):
    """Fourier features of a rotation-invariant kernel kappa(s) = sum_k c_k e^{iks} on S^1, c_{-k} = c_k >= 0.

    Input `j` is a pair (k, parity): phi = sqrt(N a_k c_k) cos(k theta) for parity 0 and
    sqrt(N a_k c_k) sin(k theta) for parity 1, with a_0 = 1, a_k = 2 for k >= 1, and N = 2 K + 1 the number
    of inputs. The mean over `inputs()` of phi(omega) phi(omega') is then kappa(theta - theta'): with these
    "data" an energy sees the population kernel exactly, up to the truncation of the series at K.

    - `coefficients` (K + 1,): c_0, ..., c_K; `mf.problems.relu_coefficients` gives those of ReLU.

    **Raises** `ValueError` for negative coefficients (no kernel) or fewer than two.

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

    def inputs(self) -> Float[Array, "N 2"]:
        """The index set (k, parity): parity 0 for cosines, 1 for sines; N = 2 K + 1."""
        degree = self.coefficients.shape[0] - 1
        k = jnp.concatenate([jnp.arange(degree + 1), jnp.arange(1, degree + 1)])
        parity = jnp.concatenate([jnp.zeros(degree + 1), jnp.ones(degree)])
        return jnp.stack([k, parity], axis=-1).astype(self.coefficients.dtype)

    def _amplitude(self, k):
        n = 2 * self.coefficients.shape[0] - 1
        c = self.coefficients[k.astype(int)]
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
