"""Convex losses of a prediction and a target, for risks."""

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, scalar, shown

__all__ = ["ConvexLoss", "Huber", "Logistic", "Loss", "Square", "as_loss"]


class Loss(eqx.Module):
    """A loss of a prediction, convex in it.

    l(f, y) of a prediction f, elementwise on arrays of one shape.

    A new loss is a subclass with `__call__`; its derivative follows by differentiation, or is overridden by
    a closed form.

    >>> class Pseudo(Loss):
    ...     def __call__(self, prediction, target):
    ...         return jnp.sqrt(1 + (prediction - target) ** 2)
    >>> Pseudo().derivative(jnp.array([0.0, 1.0]), jnp.zeros(2)).round(3).tolist()
    [0.0, 0.707...]
    """

    @abstractmethod
    def __call__(self, prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Array:
        """l(f, y)."""

    def derivative(self, prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Array:
        """dl/df."""
        return jnp.vectorize(jax.grad(self))(prediction, target)

    def validate(self, target: Float[Array, " N"]) -> None:
        """**Raises** `ValueError` for targets that this loss does not take."""


class Square(Loss):
    """Half the squared error.

    l(f, y) = (f - y)^2 / 2.

    >>> float(Square()(jnp.array(3.0), jnp.array(1.0)))
    2.0
    """

    def __call__(self, prediction, target):
        return 0.5 * (prediction - target) ** 2

    def derivative(self, prediction, target):
        return prediction - target


class Logistic(Loss):
    """The logistic loss, for two classes.

    l(f, y) = log(1 + e^{-y f}) for labels y of -1 and +1.

    **Raises** `ValueError` for other labels.

    >>> round(float(Logistic()(jnp.array(0.0), jnp.array(1.0))), 4)
    0.6931
    """

    def __call__(self, prediction, target):
        return jax.nn.softplus(-target * prediction)

    def derivative(self, prediction, target):
        return -target * jax.nn.sigmoid(-target * prediction)

    def validate(self, target):
        if not is_traced(target):
            wrong = np.flatnonzero(np.abs(np.asarray(target)) != 1)
            if len(wrong):
                label = float(target[wrong[0]])
                raise ValueError(f"labels of the logistic loss are -1 and +1, got y[{wrong[0]}] = {label:g}")


class Huber(Loss):
    """A loss that is quadratic near the target and linear far from it.

    l(f, y) = r^2 / 2 where |r| <= delta and delta (|r| - delta / 2) beyond, r = f - y.

    Outliers pull with the force delta at most; `delta` > 0 in the units of y.

    >>> Huber(1.0)(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """

    delta: Float[Array, ""]

    def __init__(self, delta: ScalarLike):
        self.delta = scalar(delta, "delta", above=0)

    def __call__(self, prediction, target):
        force = self.derivative(prediction, target)
        return force * (prediction - target - 0.5 * force)

    def derivative(self, prediction, target):
        delta = self.delta.astype(prediction.dtype)
        return jnp.clip(prediction - target, -delta, delta)


class ConvexLoss(Loss):
    """Any function l(f, y) of two numbers, convex and differentiable in f, written in `jax.numpy`.

    A plain function is structure; an `equinox.Module` brings its arrays as leaves, which can be swept.

    **Raises** `ValueError` if `function` is not callable or does not return one number.

    >>> loss = ConvexLoss(lambda f, y: jnp.cosh(f - y) - 1)
    >>> float(loss(jnp.array(2.0), jnp.array(2.0)))
    0.0
    """

    function: Callable

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"a loss must be a function of prediction and target, got {shown(function)}")
        module = isinstance(function, (eqx.Module, jax.tree_util.Partial))
        self.function = cast(Callable, function) if module else jax.tree_util.Partial(function)
        number = jax.ShapeDtypeStruct((), jnp.result_type(float))
        out = jax.eval_shape(function, number, number)
        if getattr(out, "shape", None) != ():
            raise ValueError(f"a loss must return one number, got shape {getattr(out, 'shape', None)}")

    def __call__(self, prediction, target):
        return jnp.vectorize(self.function)(prediction, target).astype(prediction.dtype)


def as_loss(loss: Loss | Callable | None) -> Loss:
    """The loss itself, `Square()` for `None`, a plain function as `ConvexLoss`."""
    if loss is None:
        return Square()
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type):
        raise ValueError(f"loss must be a Loss or a function of (prediction, target): call {loss.__name__}()")
    return ConvexLoss(loss)
