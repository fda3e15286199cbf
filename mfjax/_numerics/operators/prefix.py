"""Prefix sums."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner

# Sums inside a block, and over blocks, are products with a triangular matrix: faster on CPU than a scan.
BLOCK = 64


def prefix_sums(values: Float[Array, "c n"]) -> Float[Array, "c n1"]:
    """0, v_1, v_1 + v_2, ... along the last axis: n + 1 numbers a row.

    >>> prefix_sums(jnp.array([[1.0, 2.0, 3.0]])).tolist()
    [[0.0, 1.0, 3.0, 6.0]]
    """
    rows, n = values.shape
    size = min(n, BLOCK)
    blocks = jnp.pad(values, ((0, 0), (0, -n % size))).reshape(rows, -1, size)
    inside = inner(blocks, jnp.triu(jnp.ones((size, size), values.dtype)))
    if n > size:
        inside = inside + prefix_sums(inside[:, :, -1])[:, :-1, None]
    return jnp.pad(inside.reshape(rows, -1)[:, :n], ((0, 0), (1, 0)))
