"""Ridge functions of a particle and an input."""

from collections.abc import Callable

from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_part, inner, scalar, shown
from mfjax.features.base import FeatureMap


class Ridge(FeatureMap):
    """Any activation of a linear function of the input.

    phi(omega, x) = sigma(omega . x + bias) for an activation `sigma` of one number: a function, or an
    `equinox.Module` whose numbers are then leaves, which may be swept.

    >>> import jax.numpy as jnp
    >>> float(Ridge(jnp.tanh)(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])))
    0.0
    """

    sigma: Callable
    bias: Float[Array, ""]

    def __init__(self, sigma: Callable, bias: ScalarLike = 0.0):
        if not callable(sigma):
            raise ValueError(f"sigma must be a function of one number, got {shown(sigma)}")
        self.sigma = as_part(sigma)
        self.bias = scalar(bias, "bias")

    def __call__(self, omega, x):
        # In this order the products of all inputs and particles lie as a matrix of features does.
        z = inner(x, omega)
        return self.sigma(z + self.bias.astype(z.dtype))
