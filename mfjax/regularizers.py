"""Regularizers f of an outer weight, with the conjugate f* and derivatives that the dual problem needs.

An author writes f for one number; derivative, conjugate and curvature follow, or are overridden by
closed forms. f must be strictly convex with f'(t) -> -inf, +inf at the ends of the line (so that
f* is finite everywhere).
"""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_part, is_traced, scalar, shown

__all__ = ["ConvexRegularizer", "Power", "Quadratic", "Regularizer"]


class Regularizer(eqx.Module):
    """A convex function f(t) of one outer weight, applied elementwise to arrays.

    A new one is a subclass with `__call__`; every other method follows from it by differentiation and
    root finding. Where f'' vanishes (a power above two at its minimum) f* has an infinite second
    derivative, for which automatic differentiation gives a finite number and never NaN.
    """

    @abstractmethod
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f(t)."""

    def derivative(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f'(t)."""
        return jnp.vectorize(jax.grad(self))(t)

    def curvature(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f''(t)."""
        return jnp.vectorize(jax.grad(jax.grad(self)))(t)

    def conjugate(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f*(s) = max_t s t - f(t)."""
        t = self.conjugate_derivative(s)
        return s * t - self(t)

    def conjugate_derivative(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(f*)'(s) = the t at which f'(t) = s: the outer weight that a dual value s stands for."""
        return jnp.vectorize(self._invert_derivative)(s)

    def _invert_derivative(self, s: Float[Array, ""]) -> Float[Array, ""]:
        def equation(t):
            return self.derivative(t) - s

        def solve(function, _):
            return _increasing_root(function, s)

        def tangent_solve(linear, y):
            slope = linear(jnp.ones_like(y))
            # A floor and not a test for zero: the root of a flat f' is found as some tiny number.
            floor = float(jnp.finfo(y.dtype).eps) ** 2
            return y / jnp.maximum(slope, floor)

        return jax.lax.custom_root(equation, jnp.zeros_like(s), solve, tangent_solve)


def _increasing_root(function: Callable, like: Array) -> Array:
    """Root of an increasing function of one number: bracket by doubling, then Newton kept in the bracket.

    Where Newton leaves the bracket or does not halve its step, the bracket is halved instead.
    """
    zero, one = jnp.zeros_like(like), jnp.ones_like(like)
    side = jnp.where(function(zero) < 0, one, -one)
    limit = 0.25 * jnp.finfo(like.dtype).max
    short = lambda far: (side * function(side * far) < 0) & (far < limit)
    far = jax.lax.while_loop(short, lambda far: 2 * far, one)
    near = jnp.where(far > 1, 0.5 * far, zero)
    eps = float(jnp.finfo(like.dtype).eps)

    def improve(state):
        low, high, t, last, count, _ = state
        error, slope = jax.value_and_grad(function)(t)
        low, high = jnp.where(error < 0, t, low), jnp.where(error < 0, high, t)
        newton = t - error / slope
        good = (newton >= low) & (newton <= high) & (jnp.abs(newton - t) <= 0.5 * last)
        new = jnp.where(error == 0, t, jnp.where(good, newton, 0.5 * (low + high)))
        step = jnp.abs(new - t)
        running = (step > 2 * eps * jnp.abs(new)) & (high - low > eps * jnp.abs(t))
        return low, high, new, step, count + 1, running

    # Enough halvings to take a bracket of size one below any weight that matters.
    most = 220 if like.dtype == jnp.float64 else 130
    low, high = jnp.minimum(side * near, side * far), jnp.maximum(side * near, side * far)
    start = (low, high, 0.5 * (low + high), high - low, 0, jnp.array(True))
    return jax.lax.while_loop(lambda x: x[5] & (x[4] < most), improve, start)[2]


def require_unbounded(f: Regularizer) -> None:
    """Refuse a regularizer whose conjugate is infinite somewhere.

    **Raises** `ValueError` if f' is seen to be bounded on a side: f* is infinite beyond the bound.
    """
    t = 2.0 ** np.arange(2, 27)
    for side in (1.0, -1.0):
        slope = jax.vmap(jax.grad(f))(jnp.asarray(side * t))
        if is_traced(slope):
            return
        slope = side * np.asarray(slope)
        last = int(np.argmax(np.append(~np.isfinite(slope), True))) - 1
        # Logarithms grow by more between a quarter of a number and the number.
        if last >= 2 and slope[last] - slope[last - 2] <= 1e-3 * abs(slope[last]):
            raise ValueError(
                f"the slope of the regularizer stays near {side * slope[last]:.3g} for large t, and its "
                "conjugate is infinite beyond: add a term such as 1e-3 * t**2"
            )


class Quadratic(Regularizer):
    """The squared distance of the outer weight from a center: ridge regression.

    f(t) = (t - center)^2 / 2; center 0 is the "biased" f_b, 1 the "unbiased" f_u of the VarPro paper.

    f*(s) = center s + s^2 / 2.

    >>> float(Quadratic(center=1.0).conjugate_derivative(jnp.array(0.5)))
    1.5
    """

    center: Float[Array, ""]

    def __init__(self, center: ScalarLike = 0.0):
        self.center = scalar(center, "center")

    def _center(self, t):
        return self.center.astype(t.dtype)

    def __call__(self, t):
        return 0.5 * (t - self._center(t)) ** 2

    def derivative(self, t):
        return t - self._center(t)

    def curvature(self, t):
        return jnp.ones_like(t)

    def conjugate(self, s):
        return s * (self._center(s) + 0.5 * s)

    def conjugate_derivative(self, s):
        return s + self._center(s)


class Power(Regularizer):
    """A power of the outer weight.

    f(t) = |t|^order / (order - 1), order > 1.

    f*(s) = (|s| (order - 1) / order)^(order / (order - 1)); at lam = 0 the reduced risk of a teacher nu
    is then the power divergence int nu^order mu^(1 - order) / (order - 1).
    Order 2 is f = t^2, which is `Quadratic()` at twice the lam, with twice the reduced risk.

    For order > 2 the conjugate has an infinite second derivative at s = 0; the number used there is 0.

    **Raises** `ValueError` for order <= 1. **Good values**: 1.2 to 4. Outer weights are the power
    1 / (order - 1) of the dual variable: an order near 1 needs float64.

    >>> float(Power(3.0)(jnp.array(2.0))), float(Power(3.0).conjugate_derivative(jnp.array(6.0)))
    (4.0, 2.0)
    """

    order: Float[Array, ""]

    def __init__(self, order: ScalarLike):
        self.order = scalar(order, "order")
        if not is_traced(self.order) and float(self.order) <= 1:
            raise ValueError(f"order must be greater than 1, got {float(self.order):g}")

    def __call__(self, t):
        r = self.order.astype(t.dtype)
        return t * t * _power(t, r - 2) / (r - 1)

    def derivative(self, t):
        r = self.order.astype(t.dtype)
        return t * _power(t, r - 2) * r / (r - 1)

    def curvature(self, t):
        r = self.order.astype(t.dtype)
        # The curvature at 0 is 0 for r > 2 and infinite for r < 2.
        tiny = jnp.finfo(t.dtype).tiny
        return r * jnp.maximum(jnp.abs(t), tiny) ** (r - 2)

    def conjugate(self, s):
        r = self.order.astype(s.dtype)
        z = s * (r - 1) / r
        return z * z * _power(z, (2 - r) / (r - 1))

    def conjugate_derivative(self, s):
        r = self.order.astype(s.dtype)
        z = s * (r - 1) / r
        return z * _power(z, (2 - r) / (r - 1))


def _power(t: Array, exponent: Array) -> Array:
    """|t|^exponent, with 0 in place of infinity at t = 0, and derivative zero there instead of NaN.

    Multiplied by t or t^2 it gives odd and even powers whose derivatives at 0 are right.
    """
    positive = t != 0
    at_zero = jnp.where(exponent == 0, 1.0, 0.0).astype(t.dtype)
    return jnp.where(positive, jnp.where(positive, jnp.abs(t), 1.0) ** exponent, at_zero)


class ConvexRegularizer(Regularizer):
    """Any strictly convex function f of one number that the user writes in `jax.numpy`.

    f' must exist everywhere and run from -inf to +inf. f*, and the derivatives of both, are computed
    from f alone, by root finding in compiled code: about ten times the cost of a closed form.
    Parameters to differentiate or to sweep are closed over, or are leaves of an `equinox.Module` passed
    as the function; only the latter are leaves of the regularizer.

    **Raises** `ValueError` if `function` is not callable, does not return one number, is seen not to be
    convex on [-4, 4], or has a bounded slope, as sqrt(1 + t^2) and log cosh t.

    >>> f = ConvexRegularizer(lambda t: jnp.cosh(t) - 1)
    >>> bool(jnp.isclose(f.conjugate_derivative(jnp.array(0.5)), jnp.arcsinh(0.5)))
    True
    """

    function: Callable

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"function must be a convex function of one number, got {shown(function)}")
        self.function = as_part(function)
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.result_type(float)))
        if getattr(out, "shape", None) != ():
            raise ValueError(f"function must return one number, got shape {getattr(out, 'shape', None)}")
        # An even number of points keeps clear of a kink of f' at 0, where f'' may not exist.
        slope = jax.vmap(jax.grad(self))(jnp.linspace(-4.0, 4.0, 64))
        if not is_traced(slope):
            # Beyond the range of the dtype f' is infinite, and equal to its neighbor.
            slope = np.clip(np.asarray(slope, np.float64), -1e308, 1e308)
            steps = np.where(np.abs(slope[1:]) < 1e308, np.diff(slope), 1.0)
            if not np.all(steps > 0):
                raise ValueError(
                    "function must be strictly convex on the whole line, and its derivative does not "
                    f"increase near t = {-4 + 8 * (int(np.argmin(steps)) + 0.5) / 63:.2g}"
                )
        require_unbounded(self)

    def __call__(self, t):
        return jnp.vectorize(self.function)(t).astype(t.dtype)
