"""lam = 0: the interpolant of least sum m f(u), in coordinates that whiten the features."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax import status as codes
from mfjax._numerics.arrays import count, inner, safe_sqrt
from mfjax._numerics.compiled import compiled
from mfjax._numerics.linalg import shifted_solver, singular_values
from mfjax.outer.base import (
    OuterProblem,
    OuterSolution,
    OuterSolver,
    bound,
    each_output,
    graded,
    relative,
    tolerance,
)
from mfjax.outer.newton import descend, implicit_root, ridge_start
from mfjax.regularizers import Quadratic


class MinimumNorm(OuterSolver):
    """The outer weights of least cost that fit the data exactly: no regularization.

    min sum_i m_i f(u_i) subject to A(m u) = b: the limit lam -> 0 of the reduced risk.

    With the singular value decomposition A diag(sqrt m) = U S V^T, cut at S > rank_tolerance * max S, an
    interpolant exists where b lies in the span of U. For `Quadratic`, alpha = U S^-2 U^T (b - c A m). For
    other f, the same Newton as for lam > 0 solves the problem whose features are the rows of S^-1 U^T A,
    on its dual or along its affine space of interpolants.

    - `tolerance`: relative distance of b to the span, and relative residual of the solution, that are
      still accepted; 1e-8 in float64, 1e-4 in float32 unless given. Beyond it the status is
      `NO_INTERPOLANT` or, where only rounding is at fault, `OUTER_SOLVE`.
    - `rank_tolerance`: 1e-9 in float64, 1e-4 in float32 unless given. Directions of relative size S cost
      an error S if they are cut and rounding / S if they are kept, hence about the root of rounding.
    - `form`, `max_iterations`: as in `Newton`.

    Alpha is the one of least norm where several are optimal. **Derivatives** are those of the
    interpolant while rank and solvability stay as they are: right for features of full row rank
    (N <= M positive masses in general position). With fewer features than data an interpolant is
    destroyed by almost every change of the features, and the derivatives mean nothing.

    **Cost**: one singular value decomposition, N M min(N, M).
    """

    form: str | None = eqx.field(static=True, default=None)
    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)
    rank_tolerance: Float[Array, ""] | None = eqx.field(converter=bound("rank_tolerance"), default=None)
    max_iterations: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        if self.form not in (None, "primal", "dual"):
            raise ValueError(f"form must be 'primal', 'dual' or None, got {self.form!r}")
        count(self.max_iterations, "max_iterations")

    @compiled
    @each_output
    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        # The coordinates are data of the solver: the derivative is that of the conditions at the optimum.
        basis, sizes, kept = self._span(jax.lax.stop_gradient(problem))
        inside = lambda b: inner(basis, kept * inner(b, basis))
        if isinstance(problem.regularizer, Quadratic):
            alpha = _least_squares(problem, basis, jnp.where(kept, 1 / sizes**2, 0.0))
        else:
            whiten = jnp.where(kept, 1 / sizes, 0.0)[:, None] * basis.T
            alpha = self._newton(problem, whiten, kept)
        limit = tolerance(alpha.dtype, self.tolerance)
        misfit = relative(problem.target - inside(problem.target), problem.target)
        residual = problem.residual(alpha)
        exists = graded(misfit, limit, codes.NO_INTERPOLANT)
        solved = graded(residual, limit + problem.unresolved(alpha), codes.OUTER_SOLVE)
        return OuterSolution(alpha, residual, codes.first(exists, solved), carry)

    def _span(self, problem: OuterProblem) -> tuple[Array, Array, Array]:
        """(U, S with 1 in place of cut values, which are kept)."""
        weighted = problem.matrix * safe_sqrt(problem.masses)[None, :]
        basis, sizes, _ = singular_values(weighted)
        rank_tolerance = self.rank_tolerance
        if rank_tolerance is None:
            rank_tolerance = 1e-9 if sizes.dtype == jnp.float64 else 1e-4
        kept = sizes > rank_tolerance * sizes[0]
        return basis, jnp.where(kept, sizes, 1.0), kept

    def _newton(self, problem, whiten: Float[Array, "K N"], kept) -> Float[Array, " N"]:
        operator = inner(whiten, problem.matrix)

        def inverse(masses, b):
            gram = inner(operator * masses, operator.T) + jnp.diag(jnp.where(kept, 0.0, 1.0).astype(b.dtype))
            # Keeps the factor real where f'' is infinite at most particles, as at u = 0 for powers below two.
            shift = float(jnp.finfo(b.dtype).eps) * jnp.trace(gram)
            return shifted_solver(gram, shift)(b)

        def find(_, guess):
            white = OuterProblem(
                operator,
                inner(whiten, problem.target),
                problem.masses,
                jnp.zeros_like(problem.lam),
                problem.regularizer,
            )
            # In these coordinates the Gram matrix is the identity.
            u, beta = ridge_start(white, white.centered_target)
            beta = descend(white, inverse, u, beta, self.form, self.max_iterations, constrained=True)
            return inner(beta, whiten)

        def full_inverse(masses, b):
            return inner(inverse(masses, inner(whiten, b)), whiten)

        return implicit_root(problem, jnp.zeros_like(problem.target), find, full_inverse)


def _least_squares(problem: OuterProblem, basis, inverse_squares) -> Float[Array, " N"]:
    def matvec(alpha):
        return problem.output(problem.scores(alpha))

    def apply(b):
        return inner(basis, inverse_squares * inner(b, basis))

    def solve(matvec, b):
        alpha = apply(b)
        return alpha + apply(b - matvec(alpha))

    return jax.lax.custom_linear_solve(matvec, problem.centered_target, solve, symmetric=True)
