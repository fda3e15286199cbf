"""lam = 0: the interpolant of least sum m f(u), by a truncated eigendecomposition."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver


class MinimumNorm(OuterSolver):
    """placeholder"""

    tolerance: float | None = eqx.field(static=True, default=None)

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        raise NotImplementedError
