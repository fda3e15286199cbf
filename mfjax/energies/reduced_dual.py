"""The reduced risk as a supremum of linear energies, for minimizers with an entropy."""

from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, inner, over_outputs
from mfjax.energies.dual import Dual
from mfjax.outer.base import OuterProblem


class ReducedDual(Dual):
    """The unknowns are alpha of the outer problem: V = -f*(s), F* = lam/2 |alpha|^2 - alpha . y."""

    start: Float[Array, " n"]
    problem: OuterProblem

    def __init__(self, alpha: Float[Array, "N *c"], problem: OuterProblem):
        self.start, self.problem = alpha.ravel(), problem

    def _score(self, unknowns):
        return self.problem.scores(unknowns.reshape(self.problem.target.shape))

    def potential(self, unknowns):
        return -over_outputs(self.problem.regularizer.conjugate(self._score(unknowns)))

    def conjugate(self, unknowns):
        p = self.problem
        return 0.5 * p.lam * inner(unknowns, unknowns) - inner(unknowns, p.target.ravel())

    def defect(self, unknowns, weights):
        p = self.problem
        u = p.regularizer.conjugate_derivative(self._score(unknowns))
        return p.lam * unknowns + (p.operator.output(along(weights, u) * u) - p.target).ravel()
