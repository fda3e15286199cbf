"""The reduced risk of variable projection: the risk after the outer weights are optimised away."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import inner, is_traced, scalar
from mfjax.energies.base import Energy, Solution
from mfjax.energies.data import Data
from mfjax.energies.reduced_dual import ReducedDual
from mfjax.features import FeatureMap, check_features, require_features
from mfjax.outer import Cholesky, MinimumNorm, Newton, OuterSolver
from mfjax.outer.base import OuterProblem
from mfjax.regularizers import Quadratic, Regularizer


class ReducedRisk(Energy):
    """L(mu) = min over u of |F - y|^2 / (2 lam) + int f(u) dmu, with F(x) = int u phi(., x) dmu.

    |.| is the norm of L^2 of the data, whose masses `data_weights` (N,) are 1/N unless given. At the
    optimum u(omega) = (f*)'(s(omega)) with s(omega) = sum_j p_j phi(omega, x_j) alpha_j and
    alpha = (y - F) / lam, and the first variation is V = -f*(s), defined for every omega (VarPro
    paper (15) to (17), (27); its (16) has the sign of alpha reversed, and f there is t^2, here t^2/2).

    - `features`: phi(omega, x); `x` (N, k); `y` (N,).
    - `lam`: regularisation strength, 1e-4 to 1e-1 for features of unit size; `lam=0.0` is the
      interpolant of least int f(u) dmu, an error where none exists.
    - `regularizer`: f, `Quadratic()` unless given.
    - `outer`: an `mf.outer` solver, chosen from lam and f unless given.

    **Raises** `ValueError` for data that are empty, not finite or of mismatched shapes, and lam < 0.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = jnp.array([[1.0, 1.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
    >>> energy = ReducedRisk(mf.features.ReLU(), x, y, lam=0.1)
    >>> [round(float(u), 2) for u in energy.outer_weights(mu)]
    [0.98, 0.73]
    """

    features: FeatureMap
    data: Data
    lam: Float[Array, ""]
    regularizer: Regularizer
    outer: OuterSolver

    def __init__(
        self,
        features: FeatureMap,
        x,
        y,
        lam: ScalarLike,
        regularizer: Regularizer | None = None,
        *,
        data_weights=None,
        outer: OuterSolver | None = None,
    ):
        require_features(features)
        self.features = features
        self.data = Data(x, y, data_weights)
        lam = scalar(lam, "lam", minimum=0.0)
        self.lam = lam.astype(self.data.x.dtype)
        self.regularizer = Quadratic() if regularizer is None else regularizer
        if not isinstance(self.regularizer, Regularizer):
            raise ValueError(
                f"regularizer must be a Regularizer, got {type(regularizer).__name__}; "
                "wrap a convex function in regularizers.Convex"
            )
        if outer is None:
            outer = default_outer(lam, self.regularizer)
        self.outer = outer

    def validate(self, mu, domain=None):
        check_features(self.features, mu.points, self.data.x)

    def init(self, mu):
        shape = jax.eval_shape(lambda energy, mu: energy.problem(mu).target, self, mu)
        return self.outer.init(shape.shape[0], shape.dtype)

    def problem(self, mu) -> OuterProblem:
        """The outer problem at `mu`."""
        root = jnp.sqrt(self.data.weights)
        operator = root[:, None] * self.features.matrix(mu.points, self.data.x)
        dtype = operator.dtype
        return OuterProblem(
            operator,
            (root * self.data.y).astype(dtype),
            mu.weights.astype(dtype),
            self.lam.astype(dtype),
            self.regularizer,
        )

    def solve(self, mu, carry=None):
        problem = self.problem(mu)
        solved = self.outer.solve(problem, carry)
        dual = jnp.sqrt(self.data.weights).astype(solved.alpha.dtype) * solved.alpha
        return Solution(
            value=problem.value(solved.alpha),
            potential=DualPotential(self.features, self.data.x, dual, self.regularizer),
            outer_weights=problem.outer_weights(solved.alpha),
            residual=solved.residual,
            status=solved.status,
            carry=solved.carry,
        )

    def dual(self, mu):
        problem = self.problem(mu)
        if not is_traced(self.lam) and float(self.lam) == 0:
            return None
        alpha = self.outer.solve(problem, self.init(mu)).alpha
        return ReducedDual(alpha, problem)

    def predict(self, mu, x: Float[Array, "B k"]) -> Float[Array, " B"]:
        """The network F at new inputs, with the optimal outer weights at `mu`."""
        u = self.solve(mu).outer_weights
        return inner(self.features.matrix(mu.points, x), mu.weights * u)


class DualPotential(eqx.Module):
    """omega -> -f*(s(omega)), s(omega) = sum_j dual_j phi(omega, x_j), dual = p alpha."""

    features: FeatureMap
    x: Float[Array, "N k"]
    dual: Float[Array, " N"]
    regularizer: Regularizer

    def score(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """s at one point; (f*)'(s) is the outer weight a particle there would have."""
        row = jax.vmap(self.features, in_axes=(None, 0))(point, self.x)
        return inner(row, self.dual)

    def __call__(self, point):
        return -self.regularizer.conjugate(self.score(point))


def default_outer(lam: Array, regularizer: Regularizer) -> OuterSolver:
    """Minimum norm for a known lam = 0, Cholesky for a quadratic f, Newton for the others."""
    if not is_traced(lam) and float(lam) == 0.0:
        return MinimumNorm()
    return Cholesky() if isinstance(regularizer, Quadratic) else Newton()
