"""The dual variable of variable projection, and the norm that bounds it: the hypothesis of its limit."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner, kind, pairing, safe_sqrt
from mfjax._numerics.linalg import singular_values
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.flows.base import Flow
from mfjax.measures import Grid, Measure, require_same_cells
from mfjax.observables.base import Observable
from mfjax.observables.network import risk_of
from mfjax.outer.base import bound


class DualNorm(Observable):
    """The norm of the dual variable, which stays bounded where training tends to ultra-fast diffusion.

    |alpha| = |y - F| / lam in L^2 of the data, F the network with its optimal outer weights.

    Where the signal is a network itself, y = int phi dnu, this is also the norm of h = Phi^T alpha in the
    reproducing kernel Hilbert space of kappa = E phi phi', and MMD_kappa(u mu, nu) / lam. For other signals
    |h| is smaller: of alpha the part that no feature sees does not count. For c outputs |.| sums their
    squares; at lam = 0 alpha is that of the interpolant. One outer solve.

    At one measure it rises, as lam falls, to `SourceNorm(nu)`, finite or not (Lemma 5.1).

    **Raises** `ValueError` for a flow without a `ReducedRisk`.

    Source: VarPro paper (16), (17), (19), Lemma 5.1 and Theorem 5.2, whose alpha has the other sign.

    >>> import mfjax as mf
    >>> energy = ReducedRisk(mf.features.ReLU(), jnp.ones((1, 1)), jnp.array([3.0]), lam=0.5)
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> round(float(DualNorm()(mf.measures.Particles(jnp.ones((1, 1))), flow)), 6)
    2.0
    """

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        energy = risk_of(flow, (ReducedRisk,), self)
        alpha = energy.outer.solve(energy.problem(mu)).alpha
        return safe_sqrt(pairing(alpha, alpha))


class SourceNorm(Observable):
    """The norm of f'(teacher / density), the source condition under which the dual variable stays bounded.

    |f'(dnu/dmu)| in the reproducing kernel Hilbert space of kappa = E phi phi', f the regularizer of the
    `ReducedRisk` of the flow: the least |alpha| with Phi^T alpha = f'(dnu/dmu) at the cells of a `Grid`.

    It bounds `DualNorm` at every lam > 0, and is its limit as lam falls; locally uniform bounds on it along
    the flows are what Theorem 5.2 asks for. On a grid it is a lower bound of the norm, which grows as cells
    are halved, without end where the function is not in the space: rough ratios and smooth features.

    - `teacher`: nu, a density of one point with respect to volume, of any mass and sign, or a `Grid` on the
      cells of the flow.
    - `rank_tolerance`: singular values below it, relative to the largest, are directions that the features do
      not see: 1e-9 in float64, 1e-4 in float32 unless given. What the function has in them is left out, as
      it must be for a kernel truncated at some degree.

    **Raises** `ValueError` on particles, which have no density, for a teacher on other cells, for a flow
    without a `ReducedRisk`, and for several outputs. Infinite where mu has an empty cell. Cost: one singular
    value decomposition, N K min(N, K).

    Source: VarPro paper, (34) in Lemma 5.1 and Theorem 5.2.

    >>> import mfjax as mf
    >>> circle = mf.domains.Sphere(1)
    >>> problem = mf.problems.circle_population(0.0, degree=8)
    >>> flow = mf.flows.Wasserstein(problem.risk(1e-3), circle)
    >>> value = SourceNorm(problem.teacher)(mf.measures.Grid.uniform(circle, 32), flow)
    >>> c0 = mf.problems.relu_coefficients(0.0, 8)[0]
    >>> round(float(value), 5), round(float(c0**-0.5), 5)
    (2.22144, 2.22144)
    """

    teacher: Callable | Grid
    rank_tolerance: Float[Array, ""] | None = eqx.field(converter=bound("rank_tolerance"))

    def __init__(self, teacher: Any, *, rank_tolerance: Any = None):
        if not isinstance(teacher, Grid) and (isinstance(teacher, Measure) or not callable(teacher)):
            raise ValueError(f"teacher must be a Grid or a density of one point, got {kind(teacher)}")
        self.teacher, self.rank_tolerance = teacher, rank_tolerance

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        energy = risk_of(flow, (ReducedRisk,), self)
        if not isinstance(mu, Grid):
            raise ValueError(f"SourceNorm is of a density, and {type(mu).__name__} have none: use a Grid")
        problem = energy.problem(mu)
        if problem.target.ndim > 1:
            raise ValueError(f"SourceNorm is for one output, got y of shape {energy.data.y.shape}")
        full = mu.weights > 0
        ratio = self._density(mu) / jnp.where(full, mu.density, 1)
        basis, sizes, _ = singular_values(problem.matrix.T)
        tolerance = self.rank_tolerance
        if tolerance is None:
            tolerance = 1e-9 if sizes.dtype == jnp.float64 else 1e-4
        kept = sizes > tolerance * sizes[0]
        seen = inner(problem.regularizer.derivative(ratio), basis)
        alpha = jnp.where(kept, seen / jnp.where(kept, sizes, 1), 0)
        return jnp.where(jnp.all(full), safe_sqrt(inner(alpha, alpha)), jnp.inf)

    def validate(self, mu, flow):
        if isinstance(self.teacher, Grid) and isinstance(mu, Grid):
            require_same_cells(self.teacher, mu, "teacher")

    def _density(self, mu: Grid) -> Float[Array, " K"]:
        """The density of the teacher in each cell."""
        if isinstance(self.teacher, Grid):
            require_same_cells(self.teacher, mu, "teacher")
            return self.teacher.density.astype(mu.dtype)
        values = jax.vmap(self.teacher)(mu.points)
        if values.shape != (mu.size,):
            raise ValueError(f"teacher must return one number per point, got shape {values.shape[1:]}")
        return values.astype(mu.dtype)
