"""Factorizations whose batches are taken one matrix at a time on CPU.

There jaxlib 0.10 shares a batch among the threads that run the program, and waits for it in one of them.
Where as many batches meet as there are threads, each waits for the others, forever. A loop over the batch
needs no other thread; other devices keep the batch.
"""

from collections.abc import Callable
from functools import partial, wraps

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float

from mfjax._numerics.arrays import columns

# Columns and rows up to which a block is solved column by column on CPU.
NARROW, SMALL = 32, 256


def one_by_one(function: Callable) -> Callable:
    """`function` with a loop over the members of a batch in place of a batch on CPU.

    Its arguments are trees of arrays and of what is the same for all. Not for what is differentiated in
    reverse mode: call it where derivatives are those of a linear system.
    """

    def call(*arguments):
        arrays, same = eqx.partition(arguments, eqx.is_array)
        leaves, tree = jax.tree.flatten(arrays)
        return _single(lambda *leaves: function(*eqx.combine(jax.tree.unflatten(tree, leaves), same)))(
            *leaves
        )

    return wraps(function)(call)


def _single(function: Callable) -> Callable:
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def batch(size, batched, *arrays):
        del size

        def members(*own):
            rest = iter(own)
            return [next(rest) if is_own else shared for is_own, shared in zip(batched, arrays, strict=True)]

        own = [array for array, is_own in zip(arrays, batched, strict=True) if is_own]
        together = jax.vmap(lambda *own: function(*members(*own)))
        loop = lambda *own: jax.lax.map(lambda one: single(*members(*one)), own)
        result = jax.lax.platform_dependent(*own, cpu=loop, default=together)
        return result, jax.tree.map(lambda _: True, result)

    return single


@one_by_one
def cholesky(matrix: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """The lower factor; what is above the diagonal means nothing."""
    return jsl.cho_factor(matrix, lower=True)[0]


def cholesky_solve(factor: Float[Array, "K K"], b: Float[Array, "K *c"]) -> Float[Array, "K *c"]:
    """(L L^T)^{-1} b for the lower factor L."""
    solve = partial(_cholesky_solve, factor)
    # A few columns at once wake threads of LAPACK that cost more than the solve beside those of the program.
    narrow = b.ndim == 2 and b.shape[1] <= NARROW and len(factor) <= SMALL
    return columns(solve)(b) if narrow else solve(b)


@one_by_one
def _cholesky_solve(factor: Float[Array, "K K"], b: Float[Array, "K *c"]) -> Float[Array, "K *c"]:
    return jsl.cho_solve((factor, True), b)


@one_by_one
def singular_values(matrix: Float[Array, "N M"]) -> tuple[Array, Array, Array]:
    """(U, S, V^T) with min(N, M) columns."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


@one_by_one
def pseudo_inverse(matrix: Float[Array, "N M"]) -> Float[Array, "M N"]:
    """The Moore-Penrose inverse."""
    return jnp.linalg.pinv(matrix)


def shifted_solver(
    gram: Float[Array, "K K"], shift: Float[Array, ""]
) -> Callable[[Float[Array, "K *c"]], Float[Array, "K *c"]]:
    """b -> (G + shift)^{-1} b for a symmetric G >= 0, from one factorization, which it holds as an array."""
    factor = cholesky(gram + shift * jnp.eye(len(gram), dtype=gram.dtype))
    return jax.tree_util.Partial(cholesky_solve, factor)
