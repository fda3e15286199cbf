"""The reduced risk of variable projection: the risk after the outer weights are optimized away."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import Prepared, along, inner, is_traced, kind, pairing, scalar
from mfjax._numerics.compiled import compiled
from mfjax.energies.base import Solution
from mfjax.energies.batches import DataEnergy, Sampling, checked_sampling
from mfjax.energies.data import Data
from mfjax.energies.predictor import Predictor
from mfjax.energies.reduced import Reduced, ReducedPotential, Score
from mfjax.energies.reduced_dual import ReducedDual
from mfjax.features import FeatureMap, check_features, require_features
from mfjax.outer import Automatic, MinimumNorm, Newton, OuterSolver
from mfjax.outer.base import OuterProblem
from mfjax.regularizers import ConvexRegularizer, Power, Quadratic, Regularizer, require_unbounded


class ReducedRisk(DataEnergy, Reduced):
    """The risk of a two-layer network whose outer weights are always optimal: variable projection.

    L(mu) = min over u of |F - y|^2 / (2 lam) + int f(u) dmu, with F(x) = int u phi(., x) dmu.

    |.| is the norm of L^2 of the data, whose masses `data_weights` (N,) are 1/N unless given. At the
    optimum u(omega) = (f*)'(s(omega)) with s(omega) = sum_j p_j phi(omega, x_j) alpha_j and
    alpha = (y - F) / lam, and the first variation is V = -f*(s), defined for every omega (VarPro
    paper (15) to (17), (27); its (16) has the sign of alpha reversed, and f there is t^2, here t^2/2).

    For targets y (N, c) the network has c outputs: u, s and alpha have c columns, |.|^2 and f are summed over
    them, and V = -sum_c f*(s_c) (thesis (27), (28), (34)). The outputs share features, masses and every
    factorization. Classes are one-hot rows, `jax.nn.one_hot(labels, c)`.

    - `features`: phi(omega, x); `x` (N, k); `y` (N,), or (N, c) for c outputs.
    - `lam`: regularization strength, 1e-4 to 1e-1 for features of unit size; `lam=0.0` is the
      interpolant of least int f(u) dmu, an error where none exists.
    - `regularizer`: f, `Quadratic()` unless given.
    - `batches`: what a step of a run sees of the data, such as `Batches(32)`; all of them unless given. The
      outer weights of a step are then those of its batch (thesis III.46 without momentum), and its gradient
      is not that of L in the mean: the smaller the batch, the less they regularize one another.
    - `outer`: an `mf.outer` solver. Unless given: `MinimumNorm` for lam = 0, `Newton` for an f that is not
      quadratic, else `Automatic`, which goes by the size (`solver(mu)` says what it takes).

    In a run each solve starts from the one before, and stops at the residual that the solver states; the
    potential is that of the dual variable found, and the recorded value is a lower bound by its square.

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
    batches: Sampling | None

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
        batches: Sampling | None = None,
    ):
        require_features(features)
        self.features = features
        self.data = Data(x, y, data_weights)
        lam = scalar(lam, "lam", minimum=0.0)
        self.lam = lam.astype(self.data.x.dtype)
        self.regularizer = Quadratic() if regularizer is None else regularizer
        if not isinstance(self.regularizer, Regularizer):
            raise ValueError(
                f"regularizer must be a Regularizer, got {kind(regularizer)}; "
                "wrap a convex function in regularizers.ConvexRegularizer"
            )
        if not isinstance(self.regularizer, Quadratic | Power | ConvexRegularizer):
            require_unbounded(self.regularizer)
        if outer is None:
            outer = default_outer(lam, self.regularizer)
        if not isinstance(outer, OuterSolver):
            raise ValueError(f"outer must be a solver of mf.outer, such as Cholesky(), got {kind(outer)}")
        self.outer = outer
        self.batches = checked_sampling(batches, self.data)

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.data.outputs

    def validate(self, mu, domain=None):
        check_features(self.features, mu.points, self.data.x, domain)

    def init(self, mu):
        # One program: op by op, what a solver prepares would be compiled piece by piece.
        return None if self.random else _initial(self, mu)

    def prepare(self, mu):
        return self.data.prepare(self.features, mu.points)

    def problem(self, mu, prepared: Any = None) -> OuterProblem:
        """The outer problem at `mu`; `prepared` is `features.prepare` of the data, if it is known."""
        dtype = mu.dtype
        root = jnp.sqrt(self.data.weights).astype(dtype)
        return OuterProblem(
            self.data.operator(self.features, mu.points, prepared),
            along(root, self.data.y) * self.data.y.astype(dtype),
            mu.weights,
            self.lam.astype(dtype),
            self.regularizer,
        )

    def solver(self, mu) -> OuterSolver:
        """The method that a run which starts at `mu` takes for its outer solves, those of batches if any."""
        if self.random:
            # Nothing is carried from batch to batch: each solve is alone.
            batch = self.draw(jr.key(0), jnp.zeros((), jnp.int32))
            return batch.outer.choose(batch.problem(mu), alone=True)
        return self.outer.choose(self.problem(mu, self.prepare(mu)))

    def solve(self, mu, carry=None):
        prepared, memory = (None, None) if carry is None else (carry.prepared.value, carry.memory)
        problem = self.problem(mu, prepared)
        solved = self.outer.solve(problem, memory)
        return Solution(
            value=problem.value(solved.alpha),
            potential=self.potential_of(solved.alpha, prepared),
            outer_weights=problem.outer_weights(solved.alpha),
            residual=solved.residual,
            status=solved.status,
            carry=None if self.random else Carried(Prepared(prepared), solved.carry),
        )

    def potential_of(self, alpha: Float[Array, "N *c"], prepared: Any = None) -> ReducedPotential:
        """The potential of a dual variable alpha of the outer problem."""
        return ReducedPotential(DualScore(self.features, self.data, alpha, prepared), self.regularizer)

    def at_weights(self, mu, outer_weights, prepared=None):
        problem, u = self.problem(mu, prepared), outer_weights
        error = problem.target - problem.operator.output(along(mu.weights, u) * u)
        value = 0.5 * pairing(error, error) / problem.lam + jnp.sum(mu.integrate(self.regularizer(u)))
        return value, DualScore(self.features, self.data, error / problem.lam, prepared)

    def dual(self, mu):
        problem = self.problem(mu)
        if not is_traced(self.lam) and float(self.lam) == 0:
            return None
        return ReducedDual(self.outer.solve(problem).alpha, problem)

    def predictor(self, mu, outer_weights: Float[Array, "K *c"] | None = None) -> Predictor:
        """The network F at `mu` without the data: with the optimal outer weights, solved for here, once.

        `outer_weights` are others where they move by themselves: `mu.marks["u"]` of a `TwoTimescale` run.
        """
        outer = self.outer_weights(mu) if outer_weights is None else outer_weights
        if outer.shape != (mu.size, *self.outputs):
            raise ValueError(f"outer_weights must have shape {(mu.size, *self.outputs)}, got {outer.shape}")
        return Predictor(self.features, mu.points, along(mu.weights, outer) * outer)

    def predict(self, mu, x: Any) -> Float[Array, "B *c"]:
        """The network F at inputs `x` (B, k), with the optimal outer weights at `mu`: `predictor(mu)(x)`."""
        return self.predictor(mu)(x)


def require_reduced_risk(energy: Any, name: str) -> None:
    """**Raises** `ValueError` unless `energy` is a `ReducedRisk`, which alone has data."""
    if not isinstance(energy, ReducedRisk):
        raise ValueError(
            f"{name} needs a ReducedRisk, got {kind(energy)}: sample inputs, and targets from the teacher"
        )


class Carried(eqx.Module):
    """What one solve hands to the next: what the features prepare, once a run, and the solver's memory."""

    prepared: Prepared
    memory: Any


@compiled
def _initial(energy: ReducedRisk, mu) -> Carried:
    prepared = energy.prepare(mu)
    return Carried(Prepared(prepared), energy.outer.init(energy.problem(mu, prepared)))


class DualScore(Score):
    """s(omega) = sum_j sqrt(p_j) alpha_j phi(omega, x_j), alpha = sqrt(p) (y - F) / lam.

    What the features have `prepared` from the data is used for many points at once.
    """

    features: FeatureMap
    data: Data
    alpha: Float[Array, "N *c"]
    prepared: Any = None

    def __call__(self, point):
        row = jax.vmap(self.features, in_axes=(None, 0))(point, self.data.x.astype(point.dtype))
        return inner(
            row, along(jnp.sqrt(self.data.weights).astype(self.alpha.dtype), self.alpha) * self.alpha
        )

    def at(self, points):
        # The products that the outer solve is made of: at its own particles they are computed once.
        return self.data.operator(self.features, points, self.prepared).scores(self.alpha)


def default_outer(lam: Array, regularizer: Regularizer) -> OuterSolver:
    """Minimum norm for a known lam = 0, by size for a quadratic f, Newton for the others."""
    if not is_traced(lam) and float(lam) == 0.0:
        return MinimumNorm()
    return Automatic() if isinstance(regularizer, Quadratic) else Newton()
