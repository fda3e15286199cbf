"""Ridge regression by Cholesky factorisation of the smaller Gram matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float

from mfjax import status as codes
from mfjax._arrays import inner, safe_sqrt
from mfjax.operators import Operator
from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver, bound, graded, tolerance
from mfjax.regularizers import Quadratic


def factored_solve(
    operator: Float[Array, "N M"],
    masses: Float[Array, " M"],
    lam: Float[Array, ""],
    side: str | None = None,
    products: Operator | None = None,
):
    """A function that applies (A diag(m) A^T + lam)^{-1}, from one factorisation of the smaller side.

    `products` is the same A, where it has products that are faster than those of a matrix.

    Dual side: the N x N matrix itself. Primal side, with B = A diag(sqrt m) and the identity
    (B B^T + lam)^{-1} = (1 - B (B^T B + lam)^{-1} B^T) / lam, an M x M matrix.
    """
    n, m = operator.shape
    side = side or ("primal" if m <= n else "dual")
    root = safe_sqrt(masses)
    weighted = operator * root[None, :]
    if side == "primal":
        gram = inner(weighted.T, weighted)
    else:
        gram = inner(weighted, weighted.T)
    factor = jsl.cho_factor(gram + lam * jnp.eye(gram.shape[0], dtype=gram.dtype), lower=True)

    def apply(b: Float[Array, " N"]) -> Float[Array, " N"]:
        if side == "dual":
            return jsl.cho_solve(factor, b)
        if products is not None:
            return (b - products.output(root * jsl.cho_solve(factor, root * products.scores(b)))) / lam
        return (b - inner(weighted, jsl.cho_solve(factor, inner(b, weighted)))) / lam

    return apply


def ridge_solve(
    operator: Float[Array, "N M"],
    masses: Float[Array, " M"],
    lam: Float[Array, ""],
    target: Float[Array, " N"],
    *,
    side: str | None = None,
    refinements: int = 1,
) -> Float[Array, " N"]:
    """alpha = (A diag(m) A^T + lam)^{-1} b, differentiable to any order in A, m, lam and b.

    The derivative is that of the linear system, not of the factorisation, hence free of sqrt(m): a
    particle of zero mass has the right derivative in its mass. `refinements` steps of iterative
    refinement take the residual from the size of |A|^2 / lam times rounding to rounding.
    """

    def matvec(alpha):
        return inner(operator, masses * inner(alpha, operator)) + lam * alpha

    # The factorisation is data of the solver, not part of the function being differentiated:
    # custom_linear_solve differentiates `matvec`.
    apply = factored_solve(*jax.lax.stop_gradient((operator, masses, lam)), side=side)

    def solve(matvec, b):
        alpha = apply(b)
        for _ in range(refinements):
            alpha = alpha + apply(b - matvec(alpha))
        return alpha

    return jax.lax.custom_linear_solve(matvec, target, solve, symmetric=True)


class Cholesky(OuterSolver):
    """The exact ridge solve for `Quadratic`, on whichever of the primal (M x M) and dual (N x N) is smaller.

    `side` forces "primal" or "dual"; `tolerance` is the relative residual above which a solve is
    reported as failed (1e-8 in float64, 1e-4 in float32 unless given). Fails for lam = 0: use
    `MinimumNorm`. Cost N M min(N, M).
    """

    side: str | None = eqx.field(static=True, default=None)
    refinements: int = eqx.field(static=True, default=1)
    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)

    def __check_init__(self):
        if self.side not in (None, "primal", "dual"):
            raise ValueError(f"side must be 'primal', 'dual' or None, got {self.side!r}")
        if self.refinements < 0:
            raise ValueError(f"refinements must be at least 0, got {self.refinements}")

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        if not isinstance(problem.regularizer, Quadratic):
            raise ValueError(
                f"Cholesky needs the regularizer Quadratic, got {type(problem.regularizer).__name__}; "
                "use Newton"
            )
        # With v = u - c the problem is a plain ridge regression of the centred target.
        alpha = ridge_solve(
            problem.matrix,
            problem.masses,
            problem.lam,
            problem.centred_target,
            side=self.side,
            refinements=self.refinements,
        )
        residual = problem.residual(alpha)
        limit = tolerance(alpha.dtype, self.tolerance)
        return OuterSolution(alpha, residual, graded(residual, limit, codes.OUTER_SOLVE))
