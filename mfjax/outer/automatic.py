"""The method of the outer solve by the size of the problem."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from mfjax.operators import Sectors, Tiled, Windows
from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver, bound
from mfjax.outer.cholesky import Cholesky
from mfjax.outer.conjugate_gradient import ConjugateGradient

# Smaller side up to which a factorisation beats the products of an iteration, by measurement on two cores;
# and where the Gram matrix needs no product of matrices.
FACTORED, FACTORED_SECTORS = 64, 192
# The same for one solve alone, which has no previous solution and no basis.
FACTORED_ALONE = 2048
# Functions of the preconditioner: where features are products without a matrix (the circle), and otherwise.
FEW, MANY = 32, 128


class Automatic(OuterSolver):
    """`Cholesky` for narrow networks (or few data) and for a single solve, else `ConjugateGradient`.

    `choose(problem)` says which. `tolerance` is handed to either: the residual at which conjugate gradients
    stop, and above which a factorisation is reported as failed.
    """

    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)

    def choose(self, problem: OuterProblem, alone: bool = False) -> OuterSolver:
        """The method for a problem of this shape; `alone` if it is not one of a sequence."""
        smaller = min(problem.operator.shape)
        quick = FACTORED_SECTORS if isinstance(problem.operator, Sectors) else FACTORED
        # A matrix that is computed in tiles does not fit.
        alone = alone and not isinstance(problem.operator, Tiled)
        if smaller <= (FACTORED_ALONE if alone else quick):
            return Cholesky(tolerance=self.tolerance)
        rank = FEW if isinstance(problem.operator, Windows) else MANY
        return ConjugateGradient(tolerance=self.tolerance, rank=rank)

    def init(self, problem: OuterProblem) -> Any:
        return self.choose(problem).init(problem)

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        return self.choose(problem, alone=carry is None).solve(problem, carry)
