"""`mf.gibbs`: the minimizer of an energy plus entropy on a grid."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import count, is_traced, kind, scalar
from mfjax._numerics.compiled import compiled
from mfjax.energies.base import Energy
from mfjax.measures import Grid
from mfjax.status import SimulationError
from mfjax.theory.gibbs_measure.fixed_point import fixed_point
from mfjax.theory.gibbs_measure.newton import CellPotentials, Conjugate, newton
from mfjax.theory.gibbs_measure.problem import EntropicProblem, problem

METHODS = ("newton", "fixed point")
# Unknowns up to which Newton's dense matrix is the default.
DENSE = 1024


class GibbsMeasure(eqx.Module):
    """The minimizer of F + T Entropy on a grid.

    `measure`; `value`, its free energy; `residual` sum_i |m_i - e^{-V_m(x_i)/T}/Z|, relative to the mass;
    `gap` >= F(m) - min F for convex F; `iterations`; `status` code, 0 for success; `temperature` T.
    """

    measure: Grid
    value: Float[Array, ""]
    residual: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    status: Int[Array, ""]
    temperature: Float[Array, ""]


def gibbs(
    energy: Energy,
    grid: Grid,
    *,
    method: str | None = None,
    tolerance: ScalarLike | None = None,
    iterations: int | None = None,
) -> GibbsMeasure:
    """The Gibbs measure that noisy training converges to.

    The measure m that minimizes `energy` = F + T Entropy among those of the mass of `grid`.

    m = e^{-V/T} / Z, V the first variation of F at m itself: an equation, solved on the cells of `grid`,
    whose masses are the starting point. For convex F the solution is unique, and the stationary measure of
    `flows.Wasserstein(energy, domain)` on the same grid; along frozen axes (`domains.Frozen`) each place
    keeps its mass, and has a Z of its own. With sigma^2 = 2 T and a reference measure
    e^{-U}, `energy` is F + T * (Entropy() + Potential(U)).

    - `method` "newton": damped Newton on the unknowns of which V is a function: the predictions at the data
      for `Risk` and `ReducedRisk` and their sums with `Potential`s (N unknowns, N^2 K work an iteration,
      5 to 30 iterations), else the potential at the cells (K unknowns). "fixed point": damped iteration
      of the equation with adaptive damping, for any energy and size, hundreds to thousands of iterations at
      small T, where the undamped iteration diverges. By default Newton up to 1024 unknowns.
    - `tolerance`: of the residual; 1e-10 in float64 and 1e-4 in float32 unless given.
    - `iterations`: at most, 200 for Newton and 50 000 for the fixed point unless given.

    Compiled, batched and differentiated as any function of its numbers (lam, T, data): derivatives of the
    Newton result are those of the implicit function theorem; the fixed point has forward derivatives only.

    **Raises** `ValueError` without an entropy, with another internal energy, and for a grid with a noiseless
    axis, and `SimulationError` if it did not converge; under `jit` and `vmap` look at `status`.

    **Fails** where F is not convex: the result then solves the equation, if found, and may be no minimizer.

    Source: K. Hu, Z. Ren, D. Siska, L. Szpruch, Ann. Inst. H. Poincare 57 (2021), Proposition 2.5; for the
    bound `gap`, A. Nitanda, D. Wu, T. Suzuki, AISTATS 2022, Proposition 1.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> line = mf.measures.Grid.uniform(mf.domains.Interval(-5.0, 5.0), 64)
    >>> well = mf.energies.Potential(lambda x: x[0] ** 2) + 0.5 * mf.energies.Entropy()
    >>> m = gibbs(well, line).measure
    >>> round(float(m.integrate(m.points[:, 0] ** 2)), 6)
    0.25
    """
    if not isinstance(energy, Energy):
        raise ValueError(f"energy must be an Energy, got {kind(energy)}")
    if not isinstance(grid, Grid):
        raise ValueError(f"the Gibbs measure is computed on a Grid, got {type(grid).__name__}")
    energy.validate(grid)
    task = problem(energy, grid)
    if not is_traced(task.temperature) and not float(task.temperature) > 0:
        raise ValueError("the energy has no entropy: add temperature * energies.Entropy(), temperature > 0")
    if method is None:
        method = "newton" if _unknowns(task) <= DENSE else "fixed point"
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    default = 200 if method == "newton" else 50_000
    iterations = default if iterations is None else count(iterations, "iterations")
    if tolerance is None:
        tolerance = 1e-10 if grid.dtype == jnp.float64 else 1e-4
    limit = scalar(tolerance, "tolerance", above=0).astype(grid.dtype)
    found = _solve(task, method, limit, iterations)
    if not is_traced(found.status) and int(found.status) != codes.OK:
        other = "the other method" if method == "newton" else 'more iterations=, or method="newton"'
        raise SimulationError(
            f"the Gibbs equation was left with a residual of {float(found.residual):.1e}, above "
            f"{float(limit):.0e}, after {int(found.iterations)} iterations of {method}: try {other}, "
            "float64, a higher temperature, or a start nearer to the solution (the masses of the grid)",
            run=found,
        )
    return found


def _unknowns(task: EntropicProblem) -> int:
    dual = eqx.filter_eval_shape(lambda task: task.smooth.dual(task.grid), task)
    return task.grid.size if dual is None else dual.start.shape[0]


@compiled
def _solve(task: EntropicProblem, method: str, tolerance: Array, iterations: int) -> GibbsMeasure:
    if method == "newton":
        dual = task.smooth.dual(task.grid)
        if dual is None:
            unknowns = CellPotentials(task.potential(task.grid.weights), task)
        else:
            unknowns = Conjugate(dual, task)
        weights, taken = newton(unknowns, tolerance, iterations)
    else:
        weights, taken = fixed_point(task, tolerance, iterations)
    residual = task.residual(weights)
    # Written so that a NaN is a failure.
    status = jnp.where(residual <= tolerance, codes.OK, codes.NOT_CONVERGED).astype(jnp.int32)
    return GibbsMeasure(
        task.grid.with_weights(weights),
        task.free_energy(weights),
        residual,
        task.gap(weights),
        jnp.asarray(taken, jnp.int32),
        status,
        task.temperature,
    )
