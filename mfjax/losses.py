"""Losses of a prediction and a target, for risks."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_part, is_traced, scalar, shown

__all__ = ["ConvexLoss", "Huber", "Logistic", "Loss", "Softmax", "Square", "as_loss"]


class Loss(eqx.Module):
    """A loss of a prediction, convex in it.

    l(f, y) of one prediction f, a number or the c outputs of a network, and its target y.

    A new loss is a subclass with `__call__`, written for one datum; its derivative follows by
    differentiation, or is overridden by a closed form. `values` and `slopes` are those of many data.

    >>> class Pseudo(Loss):
    ...     def __call__(self, prediction, target):
    ...         return jnp.sqrt(1 + jnp.sum((prediction - target) ** 2))
    >>> Pseudo().derivative(jnp.array(1.0), jnp.array(0.0)).round(3).tolist()
    0.707...
    >>> Pseudo().values(jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.zeros((2, 2))).round(3).tolist()
    [5.09..., 1.0]
    """

    @abstractmethod
    def __call__(self, prediction: Float[Array, "*c"], target: Float[Array, "*y"]) -> Float[Array, ""]:
        """l(f, y) of one datum."""

    def derivative(self, prediction: Float[Array, "*c"], target: Float[Array, "*y"]) -> Float[Array, "*c"]:
        """dl/df of one datum."""
        return jax.grad(self)(prediction, target)

    def values(self, predictions: Float[Array, "N *c"], targets: Float[Array, "N *y"]) -> Float[Array, " N"]:
        """l(f_j, y_j) of N data."""
        return jax.vmap(self)(predictions, targets)

    def slopes(self, predictions: Float[Array, "N *c"], targets: Float[Array, "N *y"]) -> Array:
        """dl/df of N data, (N,) or (N, c)."""
        return jax.vmap(self.derivative)(predictions, targets)

    def probabilities(self, predictions: Float[Array, "N *c"]) -> Float[Array, "N *c"]:
        """What predictions say of the classes, of the losses that are minus the logarithm of a probability.

        **Raises** `ValueError` for other losses.
        """
        raise ValueError(f"{type(self).__name__} is no loss of probabilities: Softmax and Logistic are")

    def validate(self, targets: Float[Array, "N *c"], shape: tuple[int, ...] | None = None) -> None:
        """Check targets, and predictions of `shape` () or (c,) where that is known.

        **Raises** `ValueError` for targets that this loss does not take, or not with such predictions.
        """
        if shape is None:
            return
        if targets.shape[1:] != shape:
            have, want = _outputs(targets.shape[1:]), _outputs(shape)
            raise ValueError(
                f"targets must have shape {(len(targets), *shape)} for a network with {want}, got "
                f"{targets.shape}, which is for {have}: {_remedy(targets.shape[1:], shape)}"
            )
        require_one_number(self, targets, shape)


def _outputs(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} outputs" if shape else "one output"


def _remedy(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    if want and not have:
        return "losses.Softmax takes labels, others rows, as jax.nn.one_hot(labels, c) makes them"
    return f"features.Weighted(phi, outputs={have[0]}) has as many outputs" if have else "take y[:, 0]"


def require_one_number(loss: Loss, targets: Array, shape: tuple[int, ...]) -> None:
    """**Raises** `ValueError` unless `loss` makes one number of a prediction of `shape` and a target."""
    prediction = jax.ShapeDtypeStruct(shape, targets.dtype)
    try:
        out = jax.eval_shape(loss, prediction, jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the loss cannot be applied to a prediction of shape {shape} and a target of shape "
            f"{targets.shape[1:]}: {str(error).splitlines()[0]}"
        ) from error
    if getattr(out, "shape", None) != ():
        raise ValueError(
            f"a loss must return one number, got shape {getattr(out, 'shape', None)} for a prediction of "
            f"shape {shape}" + (": sum over the outputs" if shape else "")
        )


class Square(Loss):
    """Half the squared error.

    l(f, y) = |f - y|^2 / 2.

    >>> float(Square()(jnp.array(3.0), jnp.array(1.0)))
    2.0
    """

    def __call__(self, prediction, target):
        return jnp.sum(0.5 * (prediction - target) ** 2)

    def derivative(self, prediction, target):
        return prediction - target


class Logistic(Loss):
    """The logistic loss, for two classes.

    l(f, y) = log(1 + e^{-y f}) for labels y of -1 and +1; summed over outputs, each with a label of its own.

    **Raises** `ValueError` for other labels.

    >>> round(float(Logistic()(jnp.array(0.0), jnp.array(1.0))), 4)
    0.6931
    """

    def __call__(self, prediction, target):
        return jnp.sum(jax.nn.softplus(-self._sign(target) * prediction))

    def derivative(self, prediction, target):
        sign = self._sign(target)
        return -sign * jax.nn.sigmoid(-sign * prediction)

    def _sign(self, target):
        # Labels that are drawn inside a program are seen by no check, and 0 would teach nothing.
        return jnp.where(jnp.abs(target) == 1, target, jnp.nan)

    def probabilities(self, predictions):
        """Those of the label +1, output by output."""
        return jax.nn.sigmoid(predictions)

    def validate(self, targets, shape=None):
        _refuse(targets, lambda y: np.abs(y) != 1, "labels of the logistic loss are -1 and +1")
        super().validate(targets, shape)


class Softmax(Loss):
    """The cross-entropy of the softmax of c outputs, for c classes.

    l(f, y) = sum_k y_k (log sum_i e^{f_i} - f_k) for a row y (c,) of probabilities, one-hot for a class.

    Targets are labels 0, ..., c - 1, one number a datum, or rows. Stable for outputs of any size: differences
    of outputs alone enter. Adding a number to all outputs changes nothing, so that one class is as good as a
    reference, and the loss is convex, not strictly. For a label it has no minimizer, and
    |grad l| <= 2^(1/2) min(l, 1): the inequality |grad l|^2 >= 2 l of Assumption II.1 of the thesis, which
    names it as an example there (locally) and withdraws it in II.6, fails near 0, and for large l.

    **Raises** `ValueError` for labels that are not whole numbers from 0 to c - 1, and rows that are not
    probabilities.

    >>> outputs = jnp.array([1e4, 0.0, 0.0])
    >>> [float(Softmax()(outputs, jnp.array(label))) for label in (0, 2)]
    [0.0, 10000.0]
    >>> Softmax().derivative(outputs, jnp.array([0.0, 0.0, 1.0])).tolist()
    [1.0, 0.0, -1.0]
    >>> Softmax().probabilities(outputs[None]).tolist()
    [[1.0, 0.0, 0.0]]
    """

    def __call__(self, prediction, target):
        return jnp.sum(self._row(prediction, target) * -jax.nn.log_softmax(prediction))

    def derivative(self, prediction, target):
        row = self._row(prediction, target)
        return jnp.sum(row) * jax.nn.softmax(prediction) - row

    def probabilities(self, predictions):
        """Those of the c classes (N, c). **Raises** `ValueError` for predictions of one output."""
        if predictions.ndim != 2:
            raise ValueError(f"Softmax has probabilities of rows (N, c), got shape {predictions.shape}")
        return jax.nn.softmax(predictions)

    def _row(self, prediction, target):
        if target.ndim == 1:
            return target
        c = len(prediction)
        row = jax.nn.one_hot(target.astype(jnp.int32), c, dtype=prediction.dtype)
        # Labels that are drawn inside a program are seen by no check, and no class would cost nothing.
        return jnp.where((target >= 0) & (target < c) & (target == jnp.round(target)), row, jnp.nan)

    def validate(self, targets, shape=None):
        if shape == ():
            raise ValueError(
                "Softmax is a loss of c outputs, and the network has one: take losses.Logistic() with labels "
                "-1 and +1, or features.Weighted(phi, outputs=c)"
            )
        if targets.ndim == 2:
            if targets.shape[1] == 1:
                raise ValueError(
                    f"labels of the softmax loss have shape (N,), got {targets.shape}: take y[:, 0]"
                )
            _refuse(targets, lambda y: y < 0, "rows of the softmax loss are probabilities")
            off = lambda y: np.abs(y.sum(axis=1) - 1) > 1e-4
            _refuse(targets, off, "rows of the softmax loss are probabilities, with sum 1")
            super().validate(targets, shape)
            return
        no_label = lambda y: (y < 0) | (y != np.round(y))
        _refuse(targets, no_label, "labels of the softmax loss are 0, 1, 2, ...")
        if shape is not None:
            last = f"labels of the softmax loss are 0 to {shape[0] - 1} for {shape[0]} outputs"
            _refuse(targets, lambda y: y >= shape[0], last)


def _refuse(targets: Array, wrong: Callable, rule: str) -> None:
    """**Raises** `ValueError` with the first target that is `wrong`, unless they are traced."""
    if is_traced(targets):
        return
    found = np.argwhere(wrong(np.asarray(targets)))
    if len(found):
        index = tuple(map(int, found[0]))
        place = ", ".join(map(str, index))
        raise ValueError(f"{rule}, got y[{place}] = {shown(np.asarray(targets)[index].tolist())}")


class Huber(Loss):
    """A loss that is quadratic near the target and linear far from it.

    l(f, y) = r^2 / 2 where |r| <= delta and delta (|r| - delta / 2) beyond, r = f - y, summed over outputs.

    Outliers pull with the force delta at most; `delta` > 0 in the units of y.

    >>> Huber(1.0).values(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """

    delta: Float[Array, ""]

    def __init__(self, delta: ScalarLike):
        self.delta = scalar(delta, "delta", above=0)

    def __call__(self, prediction, target):
        force = self.derivative(prediction, target)
        return jnp.sum(force * (prediction - target - 0.5 * force))

    def derivative(self, prediction, target):
        delta = self.delta.astype(prediction.dtype)
        return jnp.clip(prediction - target, -delta, delta)


class ConvexLoss(Loss):
    """Any function l(f, y) of a prediction and a target, convex and differentiable in f, in `jax.numpy`.

    It is written for one datum: f and y are numbers, or vectors (c,) for c outputs. A plain function is
    structure; an `equinox.Module` brings its arrays as leaves, which can be swept.

    **Raises** `ValueError` if `function` is not callable or does not return one number of two; a risk refuses
    one that does not return one number of its outputs.

    >>> loss = ConvexLoss(lambda f, y: jnp.cosh(f - y) - 1)
    >>> float(loss(jnp.array(2.0), jnp.array(2.0)))
    0.0
    """

    function: Callable

    def __init__(self, function: Callable):
        if not callable(function):
            raise ValueError(f"a loss must be a function of prediction and target, got {shown(function)}")
        self.function = as_part(function)
        number = jax.ShapeDtypeStruct((), jnp.result_type(float))
        try:
            out = jax.eval_shape(function, number, number)
        except Exception:
            # One of vectors, which a risk will show it.
            return
        if getattr(out, "shape", None) != ():
            raise ValueError(f"a loss must return one number, got shape {getattr(out, 'shape', None)}")

    def __call__(self, prediction, target):
        return jnp.asarray(self.function(prediction, target)).astype(prediction.dtype)


def as_loss(loss: Loss | Callable | None) -> Loss:
    """The loss itself, `Square()` for `None`, a plain function as `ConvexLoss`."""
    if loss is None:
        return Square()
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type):
        raise ValueError(f"loss must be a Loss or a function of (prediction, target): call {loss.__name__}()")
    return ConvexLoss(loss)
