"""The method of the outer solve by the size of the problem."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver, bound
from mfjax.outer.cholesky import Cholesky
from mfjax.outer.conjugate_gradient import ConjugateGradient

# Smaller side up to which a factorization beats the products of an iteration, by measurement on two cores;
# and where the Gram matrix needs no product of matrices.
FACTORED, FACTORED_QUICKLY = 128, 192
# The same for one solve alone, which has no previous solution and no basis, and for features of more
# variables than `FEW`, which no few functions span: iterations are many.
FACTORED_ALONE, FEW = 2048, 2


class Automatic(OuterSolver):
    """`Cholesky` for narrow networks, few data, many variables, a single solve; else `ConjugateGradient`.

    `choose(problem)` says which. `tolerance` is handed to either: the residual at which conjugate gradients
    stop, and above which a factorization is reported as failed.
    """

    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)

    def choose(self, problem: OuterProblem, alone: bool = False) -> OuterSolver:
        operator = problem.operator
        smaller = min(operator.shape)
        in_a_run = FACTORED_QUICKLY if operator.quick_gram else FACTORED
        slowly = alone or operator.variables > FEW
        if smaller <= (FACTORED_ALONE if slowly and operator.fits else in_a_run):
            return Cholesky(tolerance=self.tolerance)
        return ConjugateGradient(tolerance=self.tolerance, rank=operator.span)

    def init(self, problem: OuterProblem) -> Any:
        return self.choose(problem).init(problem)

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        return self.choose(problem, alone=carry is None).solve(problem, carry)
