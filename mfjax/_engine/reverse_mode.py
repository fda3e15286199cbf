"""A loop whose reverse mode keeps few states: nested blocks, each repeated from its beginning when needed."""

from collections.abc import Callable
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp


def loop(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    count: Any,
    bound: int,
    checkpoints: int,
    blank: Any = None,
) -> tuple[Any, Any]:
    """(carry, stacked y) after carry, y = body(i, carry) for i = 0, ..., count - 1, with count <= `bound`.

    Iterations are grouped in blocks of c = `checkpoints`, blocks in blocks of c, and so on: about
    log(bound) / log(c) levels. Reverse mode keeps at most c states on each level and repeats every iteration
    once a level; forward mode repeats nothing. Blocks beyond `count`, which may be traced, are skipped, in a
    batch those beyond the largest count. y is `blank` there, which must look like y; outputs are stacked
    (bound, ...).

    >>> double = lambda i, x: (2 * x, x)
    >>> x, seen = loop(double, jnp.asarray(1.0), 5, 5, 2, jnp.asarray(0.0))
    >>> float(x), seen.tolist()
    (32.0, [1.0, 2.0, 4.0, 8.0, 16.0])
    """
    last = count if isinstance(count, int) else _largest(count)
    varying = not isinstance(count, int)

    def alone(i, carry):
        new, y = body(i, carry)
        if varying:
            new, y = jax.tree.map(lambda a, b: jnp.where(i < count, a, b), (new, y), (carry, blank))
        return new, y

    if bound == 1:
        # Nothing to repeat, but a loop all the same: it brings the axis of a batch to the front.
        return jax.lax.scan(lambda carry, i: alone(i, carry), carry, jnp.zeros(1, jnp.int32))
    depth = 1
    while checkpoints**depth < bound:
        depth += 1

    def blanks(size):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), blank)

    def level(depth: int, trips: int, first, carry):
        size = checkpoints ** (depth - 1)
        skipped = blank if depth == 1 else blanks(size)

        def block(carry, j):
            i = first + j * size
            inside = (
                (lambda c: alone(i, c)) if depth == 1 else (lambda c: level(depth - 1, checkpoints, i, c))
            )
            run = lambda c: jax.lax.cond(i < last, inside, lambda same: (same, skipped), c)
            # Outside the choice, so that what does not change from block to block is kept once.
            return jax.checkpoint(run, prevent_cse=False)(carry)

        carry, out = jax.lax.scan(block, carry, jnp.arange(trips, dtype=jnp.int32))
        if depth > 1:
            out = jax.tree.map(lambda leaf: leaf.reshape(trips * size, *leaf.shape[2:]), out)
        return carry, out

    trips = ceil(bound / checkpoints ** (depth - 1))
    carry, out = level(depth, trips, jnp.zeros((), jnp.int32), carry)
    return carry, jax.tree.map(lambda leaf: leaf[:bound], out)


@jax.custom_batching.custom_vmap
def _largest(count):
    """`count`, and of a batch of counts the largest, which is no batch: a choice by it stays a choice."""
    return count


@_largest.def_vmap
def _(axis_size, in_batched, count):
    return _largest(jnp.max(count)), False
