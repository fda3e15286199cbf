"""Ridge regression by Cholesky factorization of the smaller Gram matrix."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mfjax import status as codes
from mfjax._numerics.arrays import along, count, inner, safe_sqrt, transposed_inner
from mfjax._numerics.linalg import shifted_solver
from mfjax._numerics.operators import Operator, as_operator
from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver, bound, graded, tolerance
from mfjax.regularizers import Quadratic


def ridge_solve(
    operator: Operator | Float[Array, "N M"],
    masses: Float[Array, " M"],
    lam: Float[Array, ""],
    target: Float[Array, "N *c"],
    *,
    side: str | None = None,
    refinements: int = 1,
) -> Float[Array, "N *c"]:
    """alpha = (A diag(m) A^T + lam)^{-1} b, differentiable to any order in A, m, lam and b.

    The derivative is that of the linear system, not of the factorization, hence free of sqrt(m): a
    particle of zero mass has the right derivative in its mass. `refinements` steps of iterative
    refinement take the residual from the size of |A|^2 / lam times rounding to rounding.
    """
    system = as_operator(operator)

    def matvec(alpha):
        scores = system.scores(alpha)
        return system.output(along(masses, scores) * scores) + lam * alpha

    # The factorization is data of the solver, not part of the function being differentiated:
    # custom_linear_solve differentiates `matvec`.
    fixed = jax.lax.stop_gradient((system, masses, lam))
    solve = factored_solve(*fixed, side=side, refinements=refinements)
    return jax.lax.custom_linear_solve(matvec, target, lambda _, b: solve(b), symmetric=True)


def factored_solve(
    operator: Operator,
    masses: Float[Array, " M"],
    lam: Float[Array, ""],
    *,
    side: str | None = None,
    refinements: int = 0,
) -> Callable[[Float[Array, "N *c"]], Float[Array, "N *c"]]:
    """A function that applies (A diag(m) A^T + lam)^{-1}, from one factorization of the smaller side.

    It is a pytree of the arrays that it holds, so that those of several masses can be made by `jax.vmap`.
    """
    n, m = operator.shape
    method = {"primal": _primal, "dual": _dual}[side or ("primal" if m <= n else "dual")]
    return method(operator, masses, lam, refinements)


def _dual(operator, masses, lam, refinements):
    """The N x N matrix itself."""
    weighted = operator.matrix() * safe_sqrt(masses)[None, :]
    inverse = shifted_solver(inner(weighted, weighted.T), lam)

    def solve(weighted, inverse, lam, b):
        alpha = inverse(b)
        for _ in range(refinements):
            alpha = alpha + inverse(b - inner(weighted, transposed_inner(weighted, alpha)) - lam * alpha)
        return alpha

    return Partial(solve, weighted, inverse, lam)


def _primal(operator, masses, lam, refinements):
    """lam alpha = b - B z with B = A diag(sqrt m) and (B^T B + lam) z = B^T b, an M x M matrix.

    B^T alpha = z at the solution: the gap refines z.
    """
    root = safe_sqrt(masses)
    inverse = shifted_solver(root[:, None] * operator.gram() * root[None, :], lam)

    def solve(operator, root, inverse, lam, b):
        scale = along(root, b)
        output, scores = lambda z: operator.output(scale * z), lambda alpha: scale * operator.scores(alpha)
        z = inverse(scores(b))
        alpha = (b - output(z)) / lam
        for _ in range(refinements):
            more = lam * inverse(scores(alpha) - z)
            z, alpha = z + more, alpha - output(more) / lam
        return alpha

    return Partial(solve, operator, root, inverse, lam)


class Cholesky(OuterSolver):
    """The exact ridge solve for `Quadratic`, on whichever of the primal (M x M) and dual (N x N) is smaller.

    `side` forces "primal" or "dual"; `tolerance` is the relative residual above which a solve is
    reported as failed (1e-8 in float64, 1e-4 in float32 unless given). Fails for lam = 0: use
    `MinimumNorm`. Cost N M min(N, M), or that of `operator.gram()`.
    """

    side: str | None = eqx.field(static=True, default=None)
    refinements: int = eqx.field(static=True, default=1)
    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)

    def __check_init__(self):
        if self.side not in (None, "primal", "dual"):
            raise ValueError(f"side must be 'primal', 'dual' or None, got {self.side!r}")
        count(self.refinements, "refinements", minimum=0)

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        if not isinstance(problem.regularizer, Quadratic):
            raise ValueError(
                f"Cholesky needs the regularizer Quadratic, got {type(problem.regularizer).__name__}; "
                "use Newton"
            )
        # With v = u - c the problem is a plain ridge regression of the centered target.
        alpha = ridge_solve(
            problem.operator,
            problem.masses,
            problem.lam,
            problem.centered_target,
            side=self.side,
            refinements=self.refinements,
        )
        residual = problem.residual(alpha)
        limit = tolerance(alpha.dtype, self.tolerance)
        return OuterSolution(alpha, residual, graded(residual, limit, codes.OUTER_SOLVE))
