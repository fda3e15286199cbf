"""Regularisers f of an outer weight, with the conjugate f* and derivatives that the dual problem needs.

An author writes f for one number; derivative, conjugate and curvature follow, or are overridden by
closed forms. f must be strictly convex with f'(t) -> -inf, +inf at the ends of the line (so that
f* is finite everywhere).
"""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._arrays import is_traced, scalar


class Regularizer(eqx.Module):
    """A convex function f(t) of one outer weight, applied elementwise to arrays."""

    @abstractmethod
    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """f(t)."""

    def derivative(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """f'(t)."""
        return jnp.vectorize(jax.grad(self))(t)

    def curvature(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """f''(t)."""
        return jnp.vectorize(jax.grad(jax.grad(self)))(t)

    def conjugate_derivative(self, s: Float[Array, "..."]) -> Float[Array, "..."]:
        """(f*)'(s) = the t at which f'(t) = s: the outer weight that a dual value s stands for."""
        return jnp.vectorize(self._invert_derivative)(s)

    def conjugate(self, s: Float[Array, "..."]) -> Float[Array, "..."]:
        """f*(s) = max_t s t - f(t)."""
        t = self.conjugate_derivative(s)
        return s * t - self(t)

    def _invert_derivative(self, s: Float[Array, ""]) -> Float[Array, ""]:
        def equation(t):
            return self.derivative(t) - s

        def solve(function, _):
            return _increasing_root(function, s)

        def tangent_solve(linear, y):
            return y / linear(jnp.ones_like(y))

        return jax.lax.custom_root(equation, jnp.zeros_like(s), solve, tangent_solve)


def _increasing_root(function: Callable, like: Array) -> Array:
    """Root of an increasing function of one number: bracket by doubling, then bisect to the last bit."""

    def widen(bracket):
        low, high, _ = bracket
        low = jnp.where(function(low) > 0, 2 * low, low)
        high = jnp.where(function(high) < 0, 2 * high, high)
        return low, high, (function(low) > 0) | (function(high) < 0)

    one = jnp.ones_like(like)
    limit = 0.25 * jnp.finfo(like.dtype).max
    low, high, _ = jax.lax.while_loop(
        lambda b: b[2] & (b[1] < limit) & (b[0] > -limit), widen, (-one, one, jnp.array(True))
    )

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        right = function(middle) < 0
        return jnp.where(right, middle, low), jnp.where(right, high, middle)

    # Enough halvings to separate the smallest normal numbers of the dtype from a bracket of size one.
    bits = 200 if like.dtype == jnp.float64 else 120
    low, high = jax.lax.fori_loop(0, bits, halve, (low, high))
    return 0.5 * (low + high)


class Quadratic(Regularizer):
    """f(t) = (t - center)^2 / 2; center 0 is the "biased" f_b, 1 the "unbiased" f_u of the VarPro paper.

    f*(s) = center s + s^2 / 2.

    >>> float(Quadratic(center=1.0).conjugate_derivative(jnp.array(0.5)))
    1.5
    """

    center: Float[Array, ""]

    def __init__(self, center: float = 0.0):
        self.center = scalar(center, "center")

    def _center(self, t):
        return self.center.astype(t.dtype)

    def __call__(self, t):
        return 0.5 * (t - self._center(t)) ** 2

    def derivative(self, t):
        return t - self._center(t)

    def curvature(self, t):
        return jnp.ones_like(t)

    def conjugate_derivative(self, s):
        return s + self._center(s)

    def conjugate(self, s):
        return s * (self._center(s) + 0.5 * s)


class Power(Regularizer):
    """f(t) = |t|^order / (order - 1), order > 1.

    f*(s) = (|s| (order - 1) / order)^(order / (order - 1)); at lam = 0 the reduced risk of a teacher nu
    is then the power divergence int nu^order mu^(1 - order) / (order - 1) (DESIGN section 3).
    """

    order: Float[Array, ""]

    def __init__(self, order: float):
        self.order = scalar(order, "order")
        if not is_traced(self.order) and float(self.order) <= 1:
            raise ValueError(f"order must be greater than 1, got {float(self.order):g}")

    def __call__(self, t):
        r = self.order.astype(t.dtype)
        return _power(jnp.abs(t), r) / (r - 1)

    def derivative(self, t):
        r = self.order.astype(t.dtype)
        return jnp.sign(t) * _power(jnp.abs(t), r - 1) * r / (r - 1)

    def curvature(self, t):
        r = self.order.astype(t.dtype)
        # The curvature at 0 is 0 for r > 2 and infinite for r < 2.
        tiny = jnp.finfo(t.dtype).tiny
        return r * jnp.maximum(jnp.abs(t), tiny) ** (r - 2)

    def conjugate_derivative(self, s):
        r = self.order.astype(s.dtype)
        return jnp.sign(s) * _power(jnp.abs(s) * (r - 1) / r, 1 / (r - 1))

    def conjugate(self, s):
        r = self.order.astype(s.dtype)
        return _power(jnp.abs(s) * (r - 1) / r, r / (r - 1))


def _power(base: Array, exponent: Array) -> Array:
    """base^exponent for base >= 0 and exponent > 0, with derivative zero instead of NaN at base 0."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, 0.0)


class Convex(Regularizer):
    """Any strictly convex function of one number that the user writes in `jax.numpy`.

    >>> f = Convex(lambda t: jnp.cosh(t) - 1)
    >>> bool(jnp.isclose(f.conjugate_derivative(jnp.array(0.5)), jnp.arcsinh(0.5)))
    True
    """

    function: Callable = eqx.field(static=True)

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"function must be a convex function of one number, got {function!r}")
        self.function = function

    def __call__(self, t):
        return self.function(t)
