"""The outer solve: the linear (last-layer) weights that are optimal for given features."""

from mfjax.outer.base import OuterSolution as OuterSolution
from mfjax.outer.base import OuterSolver as OuterSolver
from mfjax.outer.cholesky import Cholesky as Cholesky
from mfjax.outer.minimum_norm import MinimumNorm as MinimumNorm
from mfjax.outer.newton import Newton as Newton
