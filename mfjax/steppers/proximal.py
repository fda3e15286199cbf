"""The minimizing movement (JKO) scheme on particles: implicit Euler in Lagrangian form."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import bicgstab
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import count, frozen, known, scalar
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.heights import HeightFlow
from mfjax.measures import Particles, Tangent
from mfjax.steppers.base import Step, Stepper, settle, step_size, with_clock
from mfjax.steppers.implicit import require_wasserstein

Displacements = Float[Array, "M d"]


class Proximal(Stepper):
    """Minimizing movements of particles: each step minimizes the energy plus the cost of moving.

    x^{k+1} = argmin over x of F(x) + sum_i m_i |v_i|^2 / (2 dt), x_i = retract(x_i^k, v_i).

    The minimizing movement (24) of the VarPro paper with the coupling that keeps each particle, the
    optimal one for small dt; its stationarity v_i = -dt (d retract)^T grad V(x_i) is implicit Euler.
    Solved by Newton's method with conjugate gradients and a line search on the objective, so that
    each step obeys F(x^{k+1}) + W_2^2(x^k, x^{k+1}) / (2 dt) <= F(x^k); a step that does not, or that is
    not stationary to tolerance or to rounding of F, reports NOT_CONVERGED. Stable for every dt where F
    is convex in the points. Order 1. First derivatives, in either mode, are those of the stationarity
    equation; second derivatives are not.

    - `dt`: flow time, not limited by stiffness; accuracy asks for dt times the slow rates below 1.
    - `rtol`, `atol`: the residual of the stationarity, root mean square over the mass, is at most
      atol + rtol times an Euler step. Good values: 0 and the square root of the machine precision, the
      defaults. The slope of a potential made of kinks (ReLU, the energy distance) jumps by the mass of
      one datum, 1/N: take `atol` above dt times that jump.
    - `max_iterations` Newton steps, each one linearized solve of the energy for every one of at most `krylov`
      conjugate gradients (static).

    The motion is held at walls, such as the faces of a box. On a sphere |v| is the tangent of the angle
    moved, and bounds the distance. A particle of zero mass is free in the objective and stays where it is.

    **Raises** `ValueError` for flows other than `Wasserstein` or with noise, on a `Grid`, where
    `ImplicitEuler` is this scheme. **Fails** (NOT_CONVERGED) on energies
    whose minimizer lies at a kink.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: 50 * x @ x), mf.domains.Euclidean(1))
    >>> state = flow.init(mf.measures.Particles(jnp.array([[1.01]])))
    >>> stepper = Proximal(1.0)
    >>> step = stepper.step(flow, state, flow.evaluate(state), stepper.dt, None, None)
    >>> round(float(step.state.measure.points[0, 0]), 4)
    0.01
    """

    order: ClassVar[int] = 1
    dt: Float[Array, ""]
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""]
    max_iterations: int = eqx.field(static=True)
    krylov: int = eqx.field(static=True)

    def __init__(
        self,
        dt: ScalarLike,
        *,
        rtol: float | None = None,
        atol: ScalarLike = 0.0,
        max_iterations: int = 50,
        krylov: int = 50,
    ):
        self.dt = step_size(dt)
        self.rtol = None if rtol is None else scalar(rtol, "rtol", above=0)
        self.atol = scalar(atol, "atol", minimum=0)
        self.max_iterations = count(max_iterations, "max_iterations")
        self.krylov = count(krylov, "krylov")

    def validate(self, flow, mu):
        super().validate(flow, mu)
        if isinstance(flow.at(), HeightFlow):
            raise ValueError(
                "minimizing movements of pairs (rho, H) are those of the law of (H, theta), which past "
                "crossings is no pair: run flows.Wasserstein of the same energy on flow.lift(mu)"
            )
        require_wasserstein(self, flow, "stepper=None")
        if not isinstance(mu, Particles):
            raise ValueError(f"Proximal moves particles, got a {type(mu).__name__}: use ImplicitEuler")

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        mu = cast(Particles, state.measure)
        eps = float(jnp.finfo(mu.dtype).eps)
        task = _Task(known(flow.at(state).energy), flow.domain, mu, state.carry, dt)
        still = frozen(task)
        problem = _Problem(still.objective, still.admissible, still.masses / jnp.sum(still.masses))
        rtol = jnp.asarray(eps**0.5 if self.rtol is None else self.rtol, mu.dtype)
        floor = self.atol.astype(mu.dtype) + 10 * eps * (1 + problem.size(mu.points))
        start = jnp.zeros_like(mu.points)
        v, converged = _newton(problem, start, rtol, floor, self.max_iterations, self.krylov)
        v = _differentiable(task, still, jax.lax.stop_gradient(v), 10 * self.krylov)
        moved = flow.move(with_clock(flow, state, evaluation, dt), Tangent(points=v), 1.0)
        done = settle(flow, moved)
        before, after = known(evaluation.energy), known(done.evaluation.energy)
        transport = jnp.sum(task.masses * v * v) / (2 * dt)
        decreased = after + transport <= before + 100 * eps * (jnp.abs(before) + jnp.abs(after))
        status = jnp.where(converged & decreased, codes.OK, codes.NOT_CONVERGED)
        return Step(done.state, done.evaluation, done.error, memory, status.astype(jnp.int32))


class _Task(eqx.Module):
    """The minimization of one step, in the displacements v (M, d) of the particles of `mu`."""

    energy: Energy
    domain: Domain
    mu: Particles
    carry: Any
    dt: Float[Array, ""]

    @property
    def masses(self) -> Float[Array, "M 1"]:
        return self.mu.weights[:, None]

    def objective(self, v: Displacements) -> tuple[Float[Array, ""], Displacements]:
        """dt times the objective, and its gradient per unit of mass."""
        start = self.mu.points
        points, pull_back = jax.vjp(lambda w: jax.vmap(self.domain.retract)(start, w), v)
        moved = eqx.tree_at(lambda nu: nu.points, self.mu, points)
        solution = self.energy.solve(moved, self.carry)
        if solution.value is None:
            raise ValueError("Proximal minimizes, and this energy has forces and no value: use Euler")
        slope = self.energy.gradient_field(moved, solution)
        walls = np.array(self.domain.walls)
        # Walls are left to `admissible`: a clipped coordinate has no slope to pull back.
        if not walls.all():
            free = jax.vmap(self.domain.project)(start, pull_back(slope)[0])
            slope = jnp.where(walls, slope, free) if walls.any() else free
        value = self.dt * solution.value.astype(v.dtype) + 0.5 * jnp.sum(self.masses * v * v)
        return value, jnp.where(self.masses > 0, v + self.dt * slope, 0)

    def admissible(self, v: Displacements) -> Displacements:
        """The nearest displacement that stays in the domain."""
        walls = np.array(self.domain.walls)
        if not walls.any():
            return v
        moved = jax.vmap(self.domain.retract)(self.mu.points, v) - self.mu.points
        return jnp.where(walls, moved, v)

    def stationarity(self, v: Displacements) -> Displacements:
        """Zero at the minimizer; v itself for particles of zero mass, which the objective does not see."""
        residual = v - self.admissible(v - self.objective(v)[1])
        return jnp.where(self.masses > 0, residual, v)


def _differentiable(task: _Task, still: _Task, v: Displacements, limit: int) -> Displacements:
    """`v` unchanged, with the derivative of the root of `task.stationarity`.

    The right side below is zero and carries the derivative of the equation; solving with it costs nothing
    unless a derivative is asked for. (`custom_root` around an iterative solve has no reverse mode in JAX.)
    """
    equation = task.stationarity(v)
    _, linear = jax.linearize(still.stationarity, v)
    tolerance = 1e-2 * float(jnp.finfo(v.dtype).eps) ** 0.5
    # Not symmetric in unequal masses, nor where zero masses or active faces leave bare rows.
    change, _ = bicgstab(linear, jax.lax.stop_gradient(equation) - equation, tol=tolerance, maxiter=limit)
    return v + change


class _Problem(NamedTuple):
    """`objective(v)` -> (value, gradient), `admissible` projects v, `masses` (M, 1) sum to one."""

    objective: Callable
    admissible: Callable
    masses: Float[Array, "M 1"]

    def inner(self, a: Displacements, b: Displacements) -> Float[Array, ""]:
        return jnp.sum(self.masses * a * b)

    def size(self, a: Displacements) -> Float[Array, ""]:
        return jnp.sqrt(self.inner(a, a))


class _Iterate(NamedTuple):
    v: Displacements
    value: Float[Array, ""]
    gradient: Displacements
    residual: Float[Array, ""]
    count: Int[Array, ""]
    flat: Array


def _newton(problem: _Problem, start: Displacements, rtol: Array, floor: Array, limit: int, krylov: int):
    """Projected Newton with an Armijo search: the minimizer, and whether its residual met the tolerance."""
    eps = float(jnp.finfo(start.dtype).eps)

    def iterate(v, count):
        value, gradient = problem.objective(v)
        residual = problem.size(v - problem.admissible(v - gradient))
        return _Iterate(v, value, gradient, residual, count, jnp.array(False))

    begin = iterate(start, jnp.zeros((), jnp.int32))
    target = rtol * begin.residual + floor

    def improve(now: _Iterate) -> _Iterate:
        # Coordinates held at a face by their gradient stay there.
        free = (problem.admissible(now.v - now.gradient) != now.v) & (problem.masses > 0)
        gradient = jnp.where(free, now.gradient, 0)
        _, linear = jax.linearize(lambda v: problem.objective(v)[1], now.v)
        hessian = lambda d: jnp.where(free, linear(d), 0)
        # Forcing terms that tighten with the residual keep the convergence superlinear.
        forcing = jnp.minimum(0.1, jnp.sqrt(now.residual / begin.residual))
        direction = _descent(problem, hessian, gradient, forcing, krylov)
        slope = problem.inner(gradient, direction)
        slack = 10 * eps * jnp.abs(now.value)

        def too_long(trial):
            portion, new = trial
            # Written so that a NaN is too long.
            short = new.value <= now.value + 1e-4 * portion * slope + slack
            return ~short & (portion > 1e-4)

        def attempt(portion):
            return portion, iterate(problem.admissible(now.v + portion * direction), now.count + 1)

        # The search begins at twice the full step so that the loop body is its only evaluation.
        whole = jnp.full((), 2.0, start.dtype)
        unset = now._replace(value=jnp.full_like(now.value, jnp.inf))
        _, new = jax.lax.while_loop(too_long, lambda trial: attempt(0.5 * trial[0]), (whole, unset))
        better = new.value <= now.value + slack
        # Rounding hides what is left to gain, and the residual has stopped falling.
        flat = (-slope <= slack) & ~(new.residual < 0.5 * now.residual)
        # A search that fails ends the iteration.
        stop = now._replace(count=jnp.full_like(now.count, limit))
        chosen = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, stop)
        return chosen._replace(flat=flat)

    running = lambda now: (now.residual > target) & (now.count < limit) & ~now.flat
    end = jax.lax.while_loop(running, improve, begin)
    return end.v, ((end.residual <= target) | end.flat)


class _Conjugate(NamedTuple):
    solution: Displacements
    residual: Displacements
    direction: Displacements
    squared: Float[Array, ""]
    count: Int[Array, ""]
    curved: Array


def _descent(problem: _Problem, hessian: Callable, gradient: Displacements, forcing: Array, krylov: int):
    """-hessian^{-1} gradient by conjugate gradients, cut short at a direction of negative curvature."""
    squared = problem.inner(gradient, gradient)
    begin = _Conjugate(
        jnp.zeros_like(gradient), -gradient, -gradient, squared, jnp.zeros((), jnp.int32), jnp.array(True)
    )

    def running(now):
        return (now.squared > forcing**2 * squared) & (now.count < krylov) & now.curved

    def body(now):
        image = hessian(now.direction)
        curvature = problem.inner(now.direction, image)
        curved = curvature > 0
        step = now.squared / jnp.where(curved, curvature, 1.0)
        residual = now.residual - step * image
        after = problem.inner(residual, residual)
        direction = residual + after / now.squared * now.direction
        moved = now.solution + step * now.direction
        # The first direction, steepest descent, is kept even where the curvature is negative.
        kept = jnp.where(now.count == 0, now.direction, now.solution)
        solution = jnp.where(curved, moved, kept)
        return _Conjugate(solution, residual, direction, after, now.count + 1, curved)

    return jax.lax.while_loop(running, body, begin).solution
