"""The outer solve: the linear (last-layer) weights that are optimal for given features.

- Quadratic f: `Automatic`, which chooses by size between `Cholesky` and `ConjugateGradient`.
- Any convex f: `Newton`. No regularization: `MinimumNorm`.
- To write one: `OuterSolver`, from an `OuterProblem` to an `OuterSolution`.
"""

from mfjax.outer.automatic import Automatic
from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver
from mfjax.outer.cholesky import Cholesky
from mfjax.outer.conjugate_gradient import ConjugateGradient
from mfjax.outer.minimum_norm import MinimumNorm
from mfjax.outer.newton import Newton

__all__ = [
    "Automatic",
    "Cholesky",
    "ConjugateGradient",
    "MinimumNorm",
    "Newton",
    "OuterProblem",
    "OuterSolution",
    "OuterSolver",
]
