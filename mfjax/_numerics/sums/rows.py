"""Maps over points whose every value costs a row of the measure, and sums of rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mfjax._numerics.arrays import inner

# Numbers of a dense table of rows that are held at once. Below it one batch is faster than a loop.
HELD = 2**20


def over_rows(function: Callable, points: Array, width: int) -> PyTree[Array]:
    """`function`, of any arrays, at each of `points` (M, ...), each of which passes through `width` numbers.

    All at once while the table of M * width numbers is small, beyond it in blocks of rows: memory is
    O(M + 2^20), in reverse mode too, where blocks are evaluated again instead of being stored.

    >>> import jax.numpy as jnp
    >>> over_rows(lambda x: x**2, jnp.arange(3.0), 3).tolist()
    [0.0, 1.0, 4.0]
    """
    if len(points) * width <= HELD:
        return jax.vmap(function)(points)
    # A plain function around it: checkpoint hashes what it is given, and modules of arrays have no hash.
    again = jax.checkpoint(lambda point: function(point))
    return jax.lax.map(again, points, batch_size=max(1, HELD // width))


def sum_of_rows(
    function: Callable[[Array], Array], points: Float[Array, "M d"], weights: Float[Array, " M"]
) -> Float[Array, " n"]:
    """sum_i w_i f(x_i), f (n,) of one point, in the memory of `over_rows`.

    >>> import jax.numpy as jnp
    >>> sum_of_rows(lambda x: x[0] ** jnp.arange(3.0), jnp.array([[1.0], [2.0]]), jnp.ones(2)).tolist()
    [2.0, 3.0, 5.0]
    """
    rows = lambda points, weights: inner(weights, jax.vmap(function)(points))
    row = jax.eval_shape(function, points[0])
    if len(points) * row.size <= HELD:
        return rows(points, weights)
    block = max(1, HELD // row.size)
    rest = -len(points) % block
    # A point that is there already: the function may be undefined elsewhere.
    points = jnp.concatenate([points, jnp.broadcast_to(points[:1], (rest, points.shape[1]))])
    blocks = points.reshape(-1, block, points.shape[1]), jnp.pad(weights, (0, rest)).reshape(-1, block)
    add = jax.checkpoint(lambda total, part: (total + rows(*part), None))
    return jax.lax.scan(add, jnp.zeros(row.shape, row.dtype), blocks)[0]
