"""A multirate scheme for reduced risks: particles move under a prediction of the dual variable."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import count, frozen, is_traced, kind, known, safe_norm, scalar
from mfjax.energies import ReducedRisk
from mfjax.energies.base import Solution
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.flows.wasserstein import Wasserstein, descent
from mfjax.measures import Particles, Tangent
from mfjax.outer.base import OuterProblem
from mfjax.outer.cholesky import factored_solve
from mfjax.regularizers import Quadratic
from mfjax.steppers.base import Step, Stepper
from mfjax.steppers.explicit import CLASSICAL, scaled_error

# Classical Runge-Kutta is stable up to 2.78 over the largest rate, which is known from below.
STABLE = 2.2
# Power iterations for the largest rate, at the start and in each step from the last one.
FIRST, NEXT = 12, 2


class Past(eqx.Module):
    """What a step needs of those before.

    `alpha` (N,) or (N, c) is the dual variable at the present points; `points` and `alpha_before` are those
    of the step before, `gap` ago, infinite where there was none; `stiffest` (M, d) is the displacement that
    the flow damps fastest.
    """

    alpha: Float[Array, "N *c"]
    points: Float[Array, "M d"]
    alpha_before: Float[Array, "N *c"]
    gap: Float[Array, ""]
    stiffest: Float[Array, "M d"]


class Multirate(Stepper):
    """Particles in substeps under a predicted dual variable: one outer solve and one factorization a step.

    The dual variable alpha (N,) of a `ReducedRisk`, an average over particles and data, is slow and smooth,
    where the velocity of a particle at given alpha is cheap, and jumps at kinks. With the stationarity
    g(x) = b - A(x) m u - lam alpha_n of `mf.outer` at points x, u = (f*)'(A(x)^T alpha_n), and the matrix
    K = lam + A diag(m u') A^T at the start of the step, alpha depends on the points as

        alpha(x, t) = alpha_n + K^{-1} g(x) + (t / h')^2 e + O(t^3),

    for e what K^{-1} g(x_{n-1}) misses of alpha_{n-1} - alpha_n, a step h' before. All particles follow
    x' = -grad V(x; alpha(x, t)) through the step h by `substeps` of the classical Runge-Kutta scheme, without
    an outer solve. Neither kinks, which g sees when they are crossed, nor the stiff answer of alpha, with
    rates up to about lam^(-1/2), cost steps. The solve at the end shows the defect r of the prediction. The
    same substeps with r t^2 (t + h') / (h^2 (h + h')) added correct the points. The size of the correction is
    the error estimate, at most rtol |x| + atol in root mean square over particles. alpha follows the
    correction by products with K^{-1}: the residual that is left, far below the tolerance, is recorded.
    Order 4 for smooth features.

    - `rtol`, `atol`: 3e-4 and 3e-6 unless given. **Good values**: 1e-3 to 1e-4 where features have kinks,
      1e-6 for smooth features in float64.
    - `substeps`: steps stay below 2.2 substeps / (largest rate). 8 suits lam from 1e-4 to 1e-1.

    **Cost** beside the solve: a factorization of the smaller Gram matrix (min(N, M) squared times max(N, M)),
    which runs count as a second solve, and 8 `substeps` evaluations of g, of K^{-1} by that factorization and
    of the velocity: about eight products with A each. Pays where an outer solve costs far more than products;
    where a few products are a solve (conjugate gradients on the circle), `Adaptive` is faster. The
    matrix A must fit, unless ReLU in the plane spares it. Differentiable in both modes, on the steps that
    were taken (`mf.simulate`).

    **Raises** `ValueError` for other flows than the `Wasserstein` flow of one `ReducedRisk` on particles, and
    for lam = 0, where K has no inverse: use `Adaptive`.

    Source: multirate infinitesimal steps (J. Wensch, O. Knoth, A. Galant, BIT 49 (2009) 449-473) whose slow
    part is linearly implicit, and deferred correction.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> x = jnp.array([[1.0, 1.0], [2.0, -1.0]])
    >>> energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, jnp.array([1.0, 1.0]), lam=0.1)
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Sphere(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> run = mf.simulate(flow, mu, stepper=Multirate(), t1=1.0)
    >>> int(run.observables["evaluations"][-1]) < 60
    True
    """

    order: ClassVar[int] = 4
    evaluations: ClassVar[tuple[int, int] | None] = (3, 2)
    dt: None = eqx.field(static=True)
    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    substeps: int = eqx.field(static=True)

    def __init__(self, rtol: ScalarLike = 3e-4, atol: ScalarLike = 3e-6, substeps: int = 8):
        self.dt = None
        self.rtol, self.atol = scalar(rtol, "rtol", above=0), scalar(atol, "atol", minimum=0)
        self.substeps = count(substeps, "substeps")

    def validate(self, flow, mu):
        super().validate(flow, mu)
        energy = getattr(flow, "energy", None)
        if not (isinstance(flow, Wasserstein) and isinstance(energy, ReducedRisk)):
            raise ValueError(
                "Multirate is for the Wasserstein flow of one ReducedRisk, got "
                f"{type(flow).__name__} of {kind(energy)}: use steppers.Adaptive"
            )
        if not isinstance(mu, Particles):
            raise ValueError(f"Multirate moves particles, got {kind(mu)}: use stepper=None")
        if not is_traced(energy.lam) and float(energy.lam) == 0:
            raise ValueError("Multirate needs lam > 0, got 0: use steppers.Adaptive")

    def init(self, flow: Flow, state: State) -> Past:
        now, solution = descent(known(flow.energy), flow.domain, cast(Particles, state.measure), state.carry)
        alpha = solution.potential.score.alpha
        stiffest, _ = Response.near(flow, state, alpha).stiffest(known(now.tangent.points), FIRST)
        points = state.measure.points
        gap = jnp.asarray(jnp.inf, points.dtype)
        return Past(alpha, points, alpha, gap, stiffest)

    def step(self, flow, state, evaluation, dt, key, memory: Past) -> Step:
        start = state.measure.points
        response = Response.near(flow, state, memory.alpha)
        bend = memory.alpha_before - response.alpha(memory.points)

        def predicted(points, time, defect):
            # The defect vanishes at both ends of the step before; without one it is quadratic.
            past, part = time / memory.gap, time / dt
            shape = part**2 * (1 + past) / (1 + dt / memory.gap)
            return response.alpha(points) + past**2 * bend + shape * defect

        def traveled(defect):
            def rate(along, time):
                points = jax.vmap(flow.domain.retract)(start, along)
                return response.velocity(points, predicted(points, time, defect))

            return classical(rate, jnp.zeros_like(start), dt, self.substeps)

        along = traveled(jnp.zeros_like(memory.alpha))
        solved = flow.move(state, Tangent(points=along), 1.0).measure
        solution = known(flow.energy).solve(solved, state.carry)
        alpha = solution.potential.score.alpha
        corrected = traveled(alpha - predicted(solved.points, dt, 0.0))
        moved = flow.move(state, Tangent(points=corrected), 1.0)
        arrived = cast(Particles, moved.measure)
        alpha = response.transported(alpha, solved.points, arrived)
        late = Tangent(points=(corrected - along) / dt)
        error = scaled_error(state, moved, late, dt, self.rtol, self.atol)
        stiffest, largest = response.stiffest(memory.stiffest, NEXT)
        limit = STABLE * self.substeps / jnp.maximum(largest, jnp.finfo(start.dtype).tiny)
        now = response.evaluation(arrived, alpha, solution, limit)
        past = Past(alpha, start, memory.alpha, dt, stiffest)
        # A swept lam may be zero, which no check at the start sees.
        status = jnp.where(response.energy.lam > 0, codes.OK, codes.OUTER_SOLVE).astype(jnp.int32)
        return Step(moved.with_carry(now.carry), now, error, past, status)


class Response(eqx.Module):
    """The dual variable near a state, by one step of Newton's method with the matrix of that state.

    `base` (N,) is a dual variable near that of the state, `gain` (M,) the slope of (f*)' at its scores, and
    `inverse` applies K^{-1}; for c outputs they have c columns, each with a matrix of its own.
    """

    flow: Wasserstein
    measure: Particles
    problem: OuterProblem
    prepared: Any
    base: Float[Array, "N *c"]
    gain: Float[Array, "M *c"]
    inverse: Callable[[Array], Array]

    @staticmethod
    def near(flow: Flow, state: State, alpha: Float[Array, "N *c"]) -> "Response":
        """Factorizes once; for several outputs once each, unless f is quadratic."""
        mu, prepared = cast(Particles, state.measure), state.carry.prepared.value
        energy = cast(ReducedRisk, flow.energy)
        problem = energy.problem(mu, prepared)
        scores = problem.scores(alpha)
        gain = jax.jvp(energy.regularizer.conjugate_derivative, (scores,), (jnp.ones_like(scores),))[1]
        operator, masses, lam = frozen((problem.operator, problem.masses, problem.lam))
        factored = lambda gain: factored_solve(operator, masses * frozen(gain), lam)
        if gain.ndim == 1:
            inverse = factored(gain)
        elif isinstance(energy.regularizer, Quadratic):
            inverse = factored(gain[:, 0])
        else:
            inverse = partial(_each, jax.vmap(factored, in_axes=1)(gain))
        return Response(cast(Wasserstein, flow), mu, problem, prepared, alpha, gain, inverse)

    @property
    def energy(self) -> ReducedRisk:
        return cast(ReducedRisk, self.flow.energy)

    def stationarity(self, points: Float[Array, "M d"]) -> Float[Array, "N *c"]:
        """g(x) at `base`."""
        there = eqx.tree_at(lambda m: m.points, self.measure, points)
        return self.energy.problem(there, self.prepared).stationarity(self.base)

    def solve(self, b: Float[Array, "N *c"]) -> Float[Array, "N *c"]:
        """K^{-1} b, whose derivative is that of the linear system, not of its factorization."""
        problem = self.problem
        product = lambda b: problem.output(self.gain * problem.scores(b)) + problem.lam * b
        inverse = lambda _, b: self.inverse(b)
        return jax.lax.custom_linear_solve(product, b, inverse, symmetric=True)

    def alpha(self, points: Float[Array, "M d"]) -> Float[Array, "N *c"]:
        """alpha_n + K^{-1} g(x): kinks that particles cross are in g."""
        return self.base + self.solve(self.stationarity(points))

    def velocity(self, points: Float[Array, "M d"], alpha: Float[Array, "N *c"]) -> Float[Array, "M d"]:
        """The velocity of particles at `points` under any dual variable."""
        energy = self.energy
        potential = energy.potential_of(alpha, self.prepared)
        return jax.vmap(self.flow.domain.velocity)(points, -potential.slopes(points))

    def transported(self, alpha: Float[Array, "N *c"], points: Float[Array, "M d"], mu: Particles) -> Array:
        """The dual variable at `mu` from that at `points` nearby, refined once."""
        alpha = alpha + self.alpha(mu.points) - self.alpha(points)
        return alpha + self.solve(self.energy.problem(mu, self.prepared).stationarity(alpha))

    def evaluation(self, mu: Particles, alpha: Float[Array, "N *c"], solution: Solution, limit) -> Evaluation:
        """The flow at `mu` by its dual variable, and the residual that this leaves."""
        problem, velocity = self.energy.problem(mu, self.prepared), self.velocity(mu.points, alpha)
        return evaluation(
            Tangent(points=velocity),
            problem.value(alpha),
            mu.integrate(jnp.sum(velocity**2, axis=-1)),
            mu.dtype,
            residual=problem.residual(alpha),
            status=solution.status,
            max_step=limit,
            carry=solution.carry,
        )

    def stiffest(self, direction: Float[Array, "M d"], iterations: int) -> tuple[Array, Array]:
        """The displacement that is damped fastest through alpha, from a guess, and its rate."""
        at = lambda alpha: self.velocity(self.measure.points, alpha)

        def improve(direction, _):
            size = safe_norm(direction.ravel())
            unit = direction / jnp.where(size > 0, size, 1)
            push = jax.jvp(self.stationarity, (self.measure.points,), (unit,))[1]
            back = jax.jvp(at, (self.base,), (self.solve(push),))[1]
            return back, safe_norm(back.ravel())

        direction, rates = jax.lax.scan(improve, direction, length=iterations)
        return jax.lax.stop_gradient((direction, rates[-1]))


def _each(inverses: Callable, b: Float[Array, "N c"]) -> Float[Array, "N c"]:
    """A batch of functions, each applied to its column."""
    return jax.vmap(lambda inverse, b: inverse(b), in_axes=(0, 1), out_axes=1)(inverses, b)


def classical(rate: Callable, start: Array, interval: Array, substeps: int) -> Array:
    """The solution of y' = rate(y, t) after `interval`, by equal steps of the classical scheme."""
    h = interval / substeps

    def substep(y, i):
        stages = [rate(y, i * h)]
        for row in CLASSICAL.a:
            along = sum(a * k for a, k in zip(row, stages, strict=True))
            stages.append(rate(y + h * along, (i + sum(row)) * h))
        return y + h * sum(b * k for b, k in zip(CLASSICAL.b, stages, strict=True)), None

    return jax.lax.scan(substep, start, jnp.arange(substeps, dtype=start.dtype))[0]
