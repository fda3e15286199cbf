"""A ridge system solved on a few functions of the data, to precondition the whole one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax._numerics.arrays import inner, transposed_inner
from mfjax._numerics.linalg import pseudo_inverse, shifted_solver, singular_values
from mfjax.outer.base import OuterProblem


class Subspace(eqx.Module):
    """An orthonormal basis Q (N, r) of nearly all features at the data, and data from which to read them.

    Features of few variables are close to few functions of the input: A ~ Q R with R = W A_J (r, M), where
    J are 2 r of the data and W = pinv(Q_J). Then A diag(m) A^T + lam ~ Q (R diag(m) R^T) Q^T + lam, whose
    inverse costs O(r^2 M + r^3) to set up for any particles and O(r N) to apply. Its error is what the basis
    misses, compared with lam: on the circle with r = 32 a thousandth, so that two iterations of conjugate
    gradients reach 1e-5. `basis` is Q^T, `data` J, `reader` W.
    """

    basis: Float[Array, "r N"]
    data: Int[Array, " J"]
    reader: Float[Array, "r J"]

    def __init__(self, problem: OuterProblem, rank: int):
        n, m = problem.operator.shape
        rank = min(rank, m, n)
        # Particles at equal distances in the list: random ones where they are, all of a grid where it is one.
        # On the host, where their products do not overflow.
        taken = min(m, 4 * rank)
        chosen = jnp.asarray(np.arange(taken) * m // taken)
        left, sizes, _ = singular_values(problem.operator.columns(chosen))
        # Where particles coincide the others are rounding, and what is read of them from few data is wrong.
        rounding = float(jnp.finfo(sizes.dtype).eps) * max(left.shape)
        q = jnp.where(sizes[:rank] > rounding * sizes[0], left[:, :rank], 0)
        self.data = spread_rows(q, min(2 * rank, n))
        self.basis, self.reader = q.T, pseudo_inverse(q[self.data])

    def inverse(self, problem: OuterProblem):
        """A function that applies about lam (A diag(m) A^T + lam)^{-1}."""
        read = inner(self.reader, problem.operator.rows(self.data))
        gram = inner(read * problem.masses, read.T)
        lam = problem.lam
        solve = shifted_solver(gram, lam)

        def apply(b: Float[Array, "N *c"]) -> Float[Array, "N *c"]:
            inside = inner(self.basis, b)
            solved = solve(inside)
            # A matrix that rounding has made indefinite has no factor, and preconditions nothing.
            change = jnp.where(jnp.all(jnp.isfinite(solved)), lam * solved - inside, 0)
            return b + transposed_inner(self.basis, change)

        return apply


def spread_rows(q: Float[Array, "N r"], count: int) -> Int[Array, " J"]:
    """`count` rows of Q: r by pivoted elimination, so that they are well-conditioned, then the next ones.

    The pivoted Cholesky factorization of Q Q^T, started again every r rows without the rows already taken.
    """
    n, rank = q.shape

    def pick(k, state):
        rows, taken, left, factor = state
        fresh = k % rank == 0
        left = jnp.where(fresh, jnp.sum(q * q, axis=1), left)
        factor = jnp.where(fresh, 0.0, factor)
        row = jnp.argmax(jnp.where(taken, -1.0, left))
        size = jnp.sqrt(jnp.maximum(left[row], float(jnp.finfo(q.dtype).eps) ** 2))
        column = (inner(q, q[row]) - inner(factor, factor[row])) / size
        left, factor = left - column**2, factor.at[:, k % rank].set(column)
        return rows.at[k].set(row), taken.at[row].set(True), left, factor

    start = (jnp.zeros(count, int), jnp.zeros(n, bool), jnp.zeros(n, q.dtype), jnp.zeros_like(q))
    return jax.lax.fori_loop(0, count, pick, start)[0]
