"""The abstract feature map phi(omega, x), written for one particle `omega` and one input `x`.

The base class batches: `features.matrix(points, inputs)` is the (N, M) matrix of phi(omega_i, x_j).
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from mfjax._numerics.arrays import kind
from mfjax._numerics.operators import Dense, Operator, Tiled
from mfjax._numerics.operators.base import LARGEST

# Bytes of the block of features that is computed at a time where not all are stored.
TILE = 2**25


class FeatureMap(eqx.Module):
    """The response of a neuron with parameter omega to an input x: phi(omega, x), one number.

    A new map is one subclass with one method, written for one pair. For `energies.Risk` alone it may return a
    vector (c,), what a neuron adds to each of c outputs.

    >>> import jax.numpy as jnp
    >>> class Cosine(FeatureMap):
    ...     def __call__(self, omega, x):
    ...         return jnp.cos(omega @ x)
    >>> Cosine().matrix(jnp.zeros((3, 2)), jnp.zeros((5, 2))).shape
    (5, 3)
    """

    @abstractmethod
    def __call__(self, omega: Float[Array, " d"], x: Float[Array, " k"]) -> Float[Array, "*c"]:
        """The feature of particle `omega` at input `x`."""

    def prepare(self, x: Float[Array, "N k"], root: Float[Array, " N"]) -> Any:
        """What `operator` needs to know of the data that is worth computing once; `None` if nothing."""
        return None

    def operator(
        self,
        points: Float[Array, "M d"],
        x: Float[Array, "N k"],
        root: Float[Array, " N"],
        prepared: Any = None,
    ) -> Operator:
        """The map A_ji = root_j phi(omega_i, x_j) of an outer problem: a matrix while that is small."""
        size = len(x) * points.dtype.itemsize * math.prod(jax.eval_shape(self, points[0], x[0]).shape)
        if len(points) * size <= LARGEST:
            return Dense(self.matrix(points, x), root, variables=max(points.shape[1], x.shape[1]))
        return Tiled(self, points, x, root, block=max(1, TILE // size))

    def validate(self, points: Array, domain: Any = None) -> None:
        """**Raises** `ValueError` if this map is not meant for such particles."""

    def matrix(self, points: Float[Array, "M d"], inputs: Float[Array, "N k"]) -> Float[Array, "N M *c"]:
        """All features at once, inputs along rows."""
        over_points = jax.vmap(self, in_axes=(0, None))
        return jax.vmap(over_points, in_axes=(None, 0))(points, inputs)


def require_features(features: Any) -> None:
    """Refuse whatever is not a feature map.

    **Raises** `ValueError` unless `features` is a feature map.
    """
    if not isinstance(features, FeatureMap):
        raise ValueError(
            f"features must be a FeatureMap, got {kind(features)}; call what makes one, as in ReLU(), and "
            "wrap a function of a particle and an input in features.Function"
        )


def check_features(
    features: FeatureMap, points: Array, x: Array, domain: Any = None, *, several: bool = False
) -> tuple[int, ...]:
    """The shape () or (c,) of what a feature map returns for one particle and one input.

    **Raises** `ValueError` if `features` does not map them to one number, or a vector where `several` outputs
    are allowed.
    """
    require_features(features)
    try:
        out = jax.eval_shape(features, points[0], x[0])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"features cannot be applied to a particle of shape {points.shape[1:]} and an input of shape "
            f"{x.shape[1:]}: {str(error).splitlines()[0]}"
        ) from error
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) > several:
        what = "one number or a vector of outputs" if several else "one number"
        raise ValueError(f"features must return {what}, got shape {shape}")
    if shape == (0,):
        raise ValueError("features must return one number or a vector of outputs, got an empty one")
    features.validate(points, domain)
    return shape
