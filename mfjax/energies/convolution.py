"""Convolutions of a kernel with a measure."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from mfjax._arrays import inner
from mfjax.measures import Measure


def convolution_at(kernel: Callable, mu: Measure, point: Array) -> Array:
    """int k(x, y) dmu(y) at one point x."""
    return inner(mu.weights, jax.vmap(kernel, in_axes=(None, 0))(point, mu.points))


def convolution(kernel: Callable, mu: Measure, points: Array) -> Array:
    """int k(., y) dmu(y) at many points, one row at a time: memory O(K), not O(K^2)."""
    return jax.lax.map(lambda p: convolution_at(kernel, mu, p), points, batch_size=256)
