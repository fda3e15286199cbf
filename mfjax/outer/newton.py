"""General convex regularisers by damped Newton."""

from typing import Any

import equinox as eqx

from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver


class Newton(OuterSolver):
    """placeholder"""

    tolerance: float | None = eqx.field(static=True, default=None)

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        raise NotImplementedError
