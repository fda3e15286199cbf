"""Any function as a feature map."""

from collections.abc import Callable

from mfjax._numerics.arrays import as_part, shown
from mfjax.features.base import FeatureMap


class Function(FeatureMap):
    """Any function `phi(omega, x)` of one particle and one input, as a feature map.

    An `equinox.Module` brings its numbers as leaves, which may be swept.

    >>> import jax.numpy as jnp
    >>> float(Function(lambda omega, x: omega[0] * x[0])(jnp.array([2.0]), jnp.array([3.0])))
    6.0
    """

    function: Callable

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"function must be callable as phi(omega, x), got {shown(function)}")
        self.function = as_part(function)

    def __call__(self, omega, x):
        return self.function(omega, x)
