"""The outer solve: the linear (last-layer) weights that are optimal for given features."""

from mfjax.outer.automatic import Automatic as Automatic
from mfjax.outer.base import OuterSolution as OuterSolution
from mfjax.outer.base import OuterSolver as OuterSolver
from mfjax.outer.cholesky import Cholesky as Cholesky
from mfjax.outer.conjugate_gradient import ConjugateGradient as ConjugateGradient
from mfjax.outer.minimum_norm import MinimumNorm as MinimumNorm
from mfjax.outer.newton import Newton as Newton
