"""Maps over points whose every value costs a row of the measure."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree

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
