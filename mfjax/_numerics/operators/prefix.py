"""Prefix sums."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner

# Sums inside a block, and over blocks, are products with a triangular matrix: faster on CPU than a scan.
BLOCK = 16


def prefix_sums(values: Float[Array, "n c"]) -> Float[Array, "n1 c"]:
    """0, v_1, v_1 + v_2, ... of each column: n + 1 rows.

    >>> prefix_sums(jnp.array([[1.0], [2.0], [3.0]])).T.tolist()
    [[0.0, 1.0, 3.0, 6.0]]
    """
    n, c = values.shape
    size = min(n, BLOCK)
    blocks = jnp.pad(values, ((0, -n % size), (0, 0))).reshape(-1, size, c)
    inside = inner(jnp.tril(jnp.ones((size, size), values.dtype)), blocks)
    if n > size:
        inside = inside + prefix_sums(inside[:, -1])[:-1, None]
    return jnp.pad(inside.reshape(-1, c)[:n], ((1, 0), (0, 0)))
