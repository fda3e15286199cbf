"""The energy of an external potential."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from mfjax._numerics.arrays import shown
from mfjax.energies.base import Energy, Solution, require_number
from mfjax.energies.dual import LinearDual


class Potential(Energy):
    """The energy of independent particles in an external potential.

    F(mu) = int V dmu for a function V of one point, with velocity -grad V.

    `function` is any callable on one point (d,) that returns one number; an `equinox.Module` may carry swept
    numbers as leaves. What else it reads, a plain object or a global, is read again at every call.

    **Raises** `ValueError` if it returns anything but one number.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [3.0]]))
    >>> float(Potential(lambda x: 0.5 * jnp.sum(x * x))(mu))
    2.5
    """

    function: Callable

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"function must be callable on one point, got {shown(function)}")
        self.function = function

    def validate(self, mu, domain=None):
        require_number("the potential", self.function, mu.points[0])

    def solve(self, mu, carry=None):
        value = mu.integrate(jax.vmap(self.function)(mu.points).astype(mu.dtype))
        potential = eqx.Partial(_apply, self.function)
        return Solution(value, potential)

    def dual(self, mu):
        return LinearDual(jax.vmap(self.function)(mu.points).astype(mu.dtype))


def _apply(function, point):
    return jnp.asarray(function(point)).astype(point.dtype)
