"""Sums of a kernel over a measure at many points at once, by the fastest exact way that the kernel knows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner, known
from mfjax._numerics.sums.rows import over_rows
from mfjax.kernels.base import Kernel

# Pairs up to which the dense sum is as fast as any.
FEW = 2**16


def kernel_sums(
    kernel: Callable,
    points: Float[Array, "M d"],
    sources: Float[Array, "K d"],
    weights: Float[Array, "K *c"],
) -> Float[Array, "M *c"]:
    """The field of weighted sources at many points, by the fastest way that the kernel has.

    sum_j weights_j k(points_i, sources_j) for every i, and for every column of weights (K, c).

    By `Kernel.sums` where the kernel has it and there are more than 2^16 pairs, else over blocks of rows:
    memory is O(M + K), in reverse mode too.

    >>> from mfjax.kernels import Distance
    >>> x = jnp.array([[0.0], [1.0], [3.0]])
    >>> kernel_sums(Distance(), x, x, jnp.ones(3)).tolist()
    [-4.0, -3.0, -5.0]
    """
    quick = _quick(kernel, points, sources, weights)
    if quick is not None:
        return quick
    return over_rows(lambda point: row_sum(kernel, point, sources, weights), points, len(sources))


def kernel_slopes(
    kernel: Callable,
    points: Float[Array, "M d"],
    sources: Float[Array, "K d"],
    weights: Float[Array, " K"],
) -> Float[Array, "M d"]:
    """The gradient of `kernel_sums` in each of `points`, with the sources held.

    The gradient of `kernel_sums` in each of `points`, sources held: sum_j weights_j grad_1 k.
    """
    if jax.eval_shape(lambda: _quick(kernel, points, sources, weights)) is not None:
        # Each sum depends on its own point only.
        return jax.grad(lambda p: jnp.sum(known(_quick(kernel, p, sources, weights))))(points)
    slope = jax.grad(lambda point: row_sum(kernel, point, sources, weights))
    return over_rows(slope, points, len(sources))


def row_sum(
    kernel: Callable, point: Float[Array, " d"], sources: Float[Array, "K d"], weights: Float[Array, "K *c"]
) -> Float[Array, "*c"]:
    """sum_j weights_j k(point, sources_j)."""
    sources, weights = sources.astype(point.dtype), weights.astype(point.dtype)
    return inner(weights.T, jax.vmap(kernel, in_axes=(None, 0))(point, sources))


def _quick(kernel, points, sources, weights):
    if not isinstance(kernel, Kernel) or len(points) * len(sources) <= FEW:
        return None
    sources, weights = sources.astype(points.dtype), weights.astype(points.dtype)
    if weights.ndim == 1:
        return kernel.sums(points, sources, weights)
    each = [kernel.sums(points, sources, column) for column in weights.T]
    return None if each[0] is None else jnp.stack(list(map(known, each)), axis=1)
