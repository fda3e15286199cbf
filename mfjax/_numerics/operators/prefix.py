"""Prefix sums."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner

# Sums inside a block are a product with a triangular matrix: on CPU twice as fast as a scan.
BLOCK = 64


def prefix_sums(values: Float[Array, "c n"]) -> Float[Array, "c n1"]:
    """0, v_1, v_1 + v_2, ... along the last axis: n + 1 numbers a row.

    >>> prefix_sums(jnp.array([[1.0, 2.0, 3.0]])).tolist()
    [[0.0, 1.0, 3.0, 6.0]]
    """
    rows, n = values.shape
    blocks = jnp.pad(values, ((0, 0), (0, -n % BLOCK))).reshape(rows, -1, BLOCK)
    inside = inner(blocks, jnp.triu(jnp.ones((BLOCK, BLOCK), values.dtype)))
    ends = jnp.cumsum(inside[:, :, -1], axis=1)
    before = jnp.pad(ends[:, :-1], ((0, 0), (1, 0)))
    sums = (inside + before[:, :, None]).reshape(rows, -1)[:, :n]
    return jnp.pad(sums, ((0, 0), (1, 0)))
