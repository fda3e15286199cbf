"""General convex regularizers by globally convergent Newton, in the dual or in the primal variable."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfjax import status as codes
from mfjax._numerics.arrays import count, inner
from mfjax._numerics.compiled import compiled
from mfjax.outer.base import (
    OuterProblem,
    OuterSolution,
    OuterSolver,
    bound,
    each_output,
    graded,
    relative,
    tolerance,
)
from mfjax.outer.cholesky import ridge_solve
from mfjax.regularizers import Regularizer

# Applies (A diag(w) A^T + lam)^{-1} to b, for masses w.
Inverse = Callable[[Array, Array], Array]


class Newton(OuterSolver):
    """Damped Newton for any convex f, on whichever of two convex problems is smooth.

    With s = A^T alpha and u on the curve s = f'(u), both linearize the optimality conditions
    s = f'(u), b - A(m u) = lam alpha, and eliminating du = w ds leaves one ridge system with the masses
    m w, w = 1 / f''(u), in place of m:

        (A diag(m w) A^T + lam) dalpha = [b - A(m u) - lam alpha] - A(m w [s - f'(u)]).

    - "dual": alpha is the unknown, u = (f*)'(s), the last bracket vanishes and w = f*''(s). The dual
      function is smooth unless f'' vanishes.
    - "primal": u is the unknown, alpha = (b - A(m u)) / lam, the first bracket vanishes. Smooth unless
      f'' is infinite, hence the choice where f'' vanishes at the minimizer of f (powers above two).

    `form=None` compares f'' at the minimizer and at distance one from it. Each step is followed by a
    line search on the convex function itself, at the cost O(N + M) a trial. The solve starts from the
    alpha of the previous one (`carry`), or from a ridge regression; it stops when the relative
    residual stops falling, and reports `OUTER_SOLVE` where that is above `tolerance` (1e-8 in float64,
    1e-4 in float32) or after `max_iterations`. The derivative is that of the implicit function, of
    any order.

    **Cost**: one ridge solve an iteration: 5 to 15 from cold, 2 to 4 from a neighboring solution.
    **Fails** for lam = 0 (use `MinimumNorm`). For powers r > 2 an outer weight that is zero is known to the
    root r - 1 of rounding only; the status allows for that, and `form="dual"` may not get as far.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = jnp.array([[1.0, 1.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
    >>> energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, y, 0.1, mf.regularizers.Power(3.0))
    >>> [round(float(u), 2) for u in energy.outer_weights(mu)]
    [0.95, 0.73]
    """

    form: str | None = eqx.field(static=True, default=None)
    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)
    max_iterations: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        if self.form not in (None, "primal", "dual"):
            raise ValueError(f"form must be 'primal', 'dual' or None, got {self.form!r}")
        count(self.max_iterations, "max_iterations")

    def init(self, problem: OuterProblem) -> Float[Array, "N *c"]:
        """Zeros, which stand for no previous solution."""
        return jnp.zeros_like(problem.target)

    # Compiled as one program also where the caller is not: op by op, each loop would compile by itself.
    @compiled
    @each_output
    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        matrix = problem.matrix

        def inverse(masses, b):
            return ridge_solve(matrix, masses, problem.lam, b)

        def find(_, previous):
            u, alpha = ridge_start(problem, inverse(problem.masses, problem.centered_target))
            known = jnp.all(jnp.isfinite(previous)) & jnp.any(previous != 0)
            alpha = jnp.where(known, previous, alpha)
            u = jnp.where(known, problem.outer_weights(previous), u)
            return descend(problem, inverse, u, alpha, self.form, self.max_iterations)

        guess = jnp.zeros_like(problem.target) if carry is None else carry.astype(problem.target.dtype)
        alpha = implicit_root(problem, guess, find, inverse)
        residual = problem.residual(alpha)
        limit = tolerance(alpha.dtype, self.tolerance) + problem.unresolved(alpha)
        return OuterSolution(alpha, residual, graded(residual, limit, codes.OUTER_SOLVE), alpha)


def implicit_root(
    problem: OuterProblem, guess: Array, find: Callable, inverse: Inverse
) -> Float[Array, " N"]:
    """The alpha that `find(_, guess)` computes, with the derivative of the root of `problem.stationarity`.

    `inverse(masses, b)` solves the linear systems of the derivative. Everything the problem holds or its
    functions close over is differentiated, `guess` is not.
    """
    equation = lambda alpha: problem.stationarity(alpha)
    found = jax.lax.custom_root(equation, guess, find, lambda _, y: y)
    # From here on the number is fixed: it only says where the equation is linearized.
    found = jax.lax.stop_gradient(found)
    weights = jax.lax.stop_gradient(
        problem.masses * compliance(problem.regularizer, problem.outer_weights(found))
    )

    def tangent_solve(linear, y):
        solve = lambda _, b: -inverse(weights, b)
        return jax.lax.custom_linear_solve(linear, y, solve, symmetric=True)

    return jax.lax.custom_root(equation, found, lambda _, x: x, tangent_solve)


def ridge_start(problem: OuterProblem, ridge: Float[Array, " N"]) -> tuple[Array, Array]:
    """(u, alpha) from the alpha of a ridge regression around the minimizer c of f.

    u is that of the ridge; alpha is scaled such that A^T alpha is near f'(u) rather than u - c.
    """
    f, m = problem.regularizer, problem.masses
    excess = problem.scores(ridge)
    u = problem.center + excess
    slope = f.derivative(u)
    squares = inner(m, excess * excess)
    scale = inner(m, slope * excess) / jnp.where(squares > 0, squares, 1.0)
    usable = jnp.all(jnp.isfinite(slope)) & jnp.isfinite(scale)
    return (
        jnp.where(usable, u, problem.center),
        jnp.where(usable, scale, 0.0) * ridge,
    )


def compliance(
    f: Regularizer, u: Float[Array, " M"], shift: Any = 0.0, floor: Any = 0.0
) -> Float[Array, " M"]:
    """1 / max(f''(u) + shift, floor), finite where f'' vanishes and 0 where it is infinite."""
    curvature = f.curvature(u)
    floor = jnp.maximum(floor, float(jnp.finfo(u.dtype).eps) ** 2)
    stiff = ~jnp.isfinite(curvature)
    return jnp.where(stiff, 0.0, 1 / jnp.maximum(jnp.where(stiff, 1.0, curvature) + shift, floor))


def curvature_floor(problem: OuterProblem) -> Float[Array, " M"]:
    """f'' below which a particle says no more in the ridge system of a step than rounding lets through.

    At 1 / f'' = lam / (sqrt(eps) m_i |A_i|^2) its score already relaxes by 1 / sqrt(eps) in a step; a
    longer entry only spoils those of the other particles.
    """
    eps = float(jnp.finfo(problem.target.dtype).eps)
    squares = jnp.sum(problem.matrix**2, axis=0)
    # No floor at lam = 0, where the system has no other scale.
    return eps**0.5 * problem.masses * squares / jnp.where(problem.lam > 0, problem.lam, jnp.inf)


def dual_is_smooth(f: Regularizer, center: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether f'' at its minimizer is no small fraction of f'' at distance one."""
    around = jnp.maximum(f.curvature(center + 1), f.curvature(center - 1))
    # Written so that an f'' that is infinite or undefined at the minimizer counts as smooth.
    return ~(f.curvature(center) < 1e-2 * around)


class _Iterate(NamedTuple):
    u: Float[Array, " M"]
    alpha: Float[Array, " N"]
    error: Float[Array, ""]
    count: Int[Array, ""]
    idle: Int[Array, ""]
    running: Bool[Array, ""]


def descend(
    problem: OuterProblem,
    inverse: Inverse,
    u: Float[Array, " M"],
    alpha: Float[Array, " N"],
    form: str | None,
    max_iterations: int,
    *,
    constrained: bool = False,
) -> Float[Array, " N"]:
    """alpha after damped Newton from (u, alpha); `constrained` is lam = 0, where A(m u) = b at the start."""

    def run(minimize):
        def loop(u, alpha):
            big = jnp.asarray(jnp.inf, alpha.dtype)
            none = jnp.zeros((), jnp.int32)
            state = _Iterate(u, alpha, big, none, none, jnp.array(True))
            step = lambda x: minimize(problem, inverse, x, constrained)
            going = lambda x: x.running & (x.count < max_iterations)
            return jax.lax.while_loop(going, step, state).alpha

        return loop

    if form is None:
        smooth = dual_is_smooth(problem.regularizer, problem.center)
        return jax.lax.cond(smooth, run(dual_step), run(primal_step), u, alpha)
    return run(dual_step if form == "dual" else primal_step)(u, alpha)


def newton_direction(problem, inverse, weights, gap, lack) -> tuple[Array, Array]:
    """(dalpha, ds) of the linearized conditions; `gap` = s - f'(u), `lack` = b - A(m u) - lam alpha."""
    masses = problem.masses * weights
    dalpha = inverse(masses, lack - problem.operator.output(masses * gap))
    return dalpha, gap + problem.scores(dalpha)


def dual_step(problem: OuterProblem, inverse: Inverse, x: _Iterate, constrained: bool) -> _Iterate:
    """A step of alpha down lam |alpha|^2 / 2 - <alpha, b> + sum m f*(s)."""
    f, m, lam, b = problem.regularizer, problem.masses, problem.lam, problem.target
    s = problem.scores(x.alpha)
    u = f.conjugate_derivative(s)
    lack = b - problem.output(u) - lam * x.alpha
    dalpha, ds = newton_direction(problem, inverse, compliance(f, u), jnp.zeros_like(s), lack)

    def along(step, weights=None):
        alpha, scores = x.alpha + step * dalpha, s + step * ds
        weights = f.conjugate_derivative(scores) if weights is None else weights
        terms = jnp.concatenate([0.5 * lam * alpha * alpha - alpha * b, m * (scores * weights - f(weights))])
        slope = inner(dalpha, lam * alpha - b) + inner(m, weights * ds)
        return terms, slope

    step, sure = line_search(along, along(jnp.zeros_like(lam), u))
    return advance(x, u, x.alpha + step * dalpha, relative(lack, b), step, sure)


def primal_step(problem: OuterProblem, inverse: Inverse, x: _Iterate, constrained: bool) -> _Iterate:
    """A step of u down |A(m u) - b|^2 / (2 lam) + sum m f(u), along A(m u) = b if `constrained`."""
    f, m, lam, b = problem.regularizer, problem.masses, problem.lam, problem.target
    s, slope = problem.scores(x.alpha), f.derivative(x.u)
    gap, error = s - slope, b - problem.output(x.u)
    lack = error - lam * x.alpha
    rms = lambda v: jnp.sqrt(inner(m, v * v))
    # Levenberg-Marquardt where f'' vanishes; it fades with the gradient, so the order stays two.
    shift = 0.01 * rms(gap) / jnp.maximum(rms(x.u), float(jnp.finfo(s.dtype).tiny) ** 0.5)
    weights = compliance(f, x.u, shift, curvature_floor(problem))
    dalpha, ds = newton_direction(problem, inverse, weights, gap, lack)
    du = weights * ds
    change = problem.output(du)

    def along(step):
        u, left = x.u + step * du, error - step * change
        penalty, force = m * f(u), inner(m, f.derivative(u) * du)
        if constrained:
            return penalty, force
        terms = jnp.concatenate([0.5 / lam * left * left, penalty])
        return terms, force - inner(left, change) / lam

    step, sure = line_search(along, along(jnp.zeros_like(lam)))
    measure = relative(lack, b) + rms(gap) / jnp.where(rms(s) > 0, rms(s), 1.0)
    # alpha + dalpha depends on u alone: the best multiplier there, also where u does not move.
    return advance(x, x.u + step * du, x.alpha + dalpha, measure, step, sure)


def advance(x: _Iterate, u, alpha, error, step, sure) -> _Iterate:
    """The next iterate. `error` is that of the point left, so the last step is always a full Newton step.

    It ends at rounding, or when steps that are lost in rounding no longer halve the error: one such
    step near convergence, four anywhere.
    """
    eps = float(jnp.finfo(alpha.dtype).eps)
    idle = jnp.where((sure | (step == 0)) & (error > 0.5 * x.error), x.idle + 1, 0)
    stagnant = (idle >= 4) | ((idle >= 1) & (error < eps**0.5))
    running = ~stagnant & (error > 4 * eps)
    return _Iterate(u, alpha, error, x.count + 1, idle, running)


def line_search(along: Callable, origin: tuple[Array, Array], halvings: int = 60) -> tuple[Array, Array]:
    """A step in (0, 1] that lowers a convex function, and whether its decrease is below rounding.

    `along(step)` gives the terms whose sum is the function, and its slope; `origin` those at step 0. The
    longest step 2^-k is taken at which the function is no higher and the slope not more than half as
    steep upwards; the full step where the predicted decrease is below rounding; 0 if there is none.
    """
    terms, slope = origin
    steepness, one = jnp.abs(slope), jnp.ones_like(slope)
    rounding = 10 * float(jnp.finfo(slope.dtype).eps) * jnp.sum(jnp.abs(terms))
    sure = steepness <= rounding

    def rejected(state):
        step, _ = state
        new_terms, new_slope = along(step)
        lower = jnp.sum(new_terms - terms) <= rounding
        # NaN is rejected too.
        return ~(sure | (lower & (new_slope <= 0.5 * steepness)))

    def condition(state):
        return (state[1] < halvings) & rejected(state)

    step, tried = jax.lax.while_loop(condition, lambda x: (0.5 * x[0], x[1] + 1), (one, 0))
    return jnp.where(tried < halvings, step, 0.0), sure
