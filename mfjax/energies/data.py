"""The data that a risk is measured on."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, finite, is_traced
from mfjax._numerics.operators import Operator
from mfjax.features import FeatureMap


class Data(eqx.Module):
    """Inputs `x` (N, k), targets `y` (N,) or (N, c), masses `weights` (N,) of 1/N unless given: checked."""

    x: Float[Array, "N k"]
    y: Float[Array, "N *c"]
    weights: Float[Array, " N"]

    def __init__(self, x: Any, y: Any, weights: Any = None):
        self.x = finite(as_floats(x, "x"), "x")
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise ValueError(f"x must have shape (N, k) with N, k >= 1, got {self.x.shape}")
        n = self.x.shape[0]
        self.y = finite(as_floats(y, "y").astype(self.x.dtype), "y")
        if self.y.ndim not in (1, 2) or len(self.y) != n or 0 in self.y.shape:
            raise ValueError(
                f"y must have shape ({n},), or ({n}, c) for c outputs, to match x, got {self.y.shape}"
            )
        if weights is None:
            weights = jnp.full((n,), 1 / n, self.x.dtype)
        self.weights = finite(as_floats(weights, "data_weights").astype(self.x.dtype), "data_weights")
        if self.weights.shape != (n,):
            raise ValueError(f"data_weights must have shape ({n},), got {self.weights.shape}")
        if not is_traced(self.weights) and np.any(np.asarray(self.weights) < 0):
            raise ValueError("data_weights must be non-negative")
        if not is_traced(self.weights) and not np.any(np.asarray(self.weights)):
            raise ValueError("data_weights must have a positive sum, got zeros: no datum would count")

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape of a target: (), or (c,) for c outputs."""
        return self.y.shape[1:]

    def prepare(self, features: FeatureMap, points: Array) -> Any:
        """What `features` know of these inputs before any particles, in the dtype of `points`."""
        return features.prepare(self.x.astype(points.dtype), jnp.sqrt(self.weights).astype(points.dtype))

    def operator(self, features: FeatureMap, points: Float[Array, "M d"], prepared: Any = None) -> Operator:
        """A_ji = sqrt(p_j) phi(omega_i, x_j), in the dtype of `points`.

        `prepared` is that of `prepare`, if it is known.
        """
        root = jnp.sqrt(self.weights).astype(points.dtype)
        return features.operator(points, self.x.astype(points.dtype), root, prepared)
