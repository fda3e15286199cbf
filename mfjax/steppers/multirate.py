"""A multirate scheme for reduced risks: the dual variable is slow, particles are cheap."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import count, safe_norm
from mfjax.energies import ReducedRisk
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.flows.wasserstein import Wasserstein, descent
from mfjax.measures import Particles, Tangent
from mfjax.outer.cholesky import factored_solve
from mfjax.steppers.base import Step, Stepper
from mfjax.steppers.explicit import checked_tolerances, scaled_error

# Classical Runge-Kutta is stable up to 2.78 over the largest rate, which is known from below.
STABLE = 2.2
# Iterations that find the largest rate at the start, and that follow it from step to step.
FIRST, NEXT = 12, 2


class Past(eqx.Module):
    """The dual variable now, and the step before: its points, its dual variable, and how long ago.

    `gap` is infinite where there was no step. `stiffest` is the displacement of the largest rate.
    """

    alpha: Float[Array, " N"]
    late: Float[Array, "M d"]
    points: Float[Array, "M d"]
    alpha_before: Float[Array, " N"]
    gap: Float[Array, ""]
    stiffest: Float[Array, "M d"]


class Multirate(Stepper):
    order: ClassVar[int] = 4
    evaluations: ClassVar[int | None] = 2
    dt: None = eqx.field(static=True)
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None
    substeps: int = eqx.field(static=True)

    def __init__(self, rtol: ScalarLike | None = None, atol: ScalarLike | None = None, substeps: int = 8):
        self.dt = None
        self.rtol, self.atol = checked_tolerances(rtol, atol)
        self.substeps = count(substeps, "substeps")

    def init(self, flow: Flow, state: State) -> Past:
        now, solution = descent(flow.energy, flow.domain, state.measure, state.carry)
        alpha = _alpha(flow.energy, solution.potential.dual)
        model = Model(flow, state, alpha)
        stiffest = model.stiffest(now.tangent.points, FIRST)[0]
        gap = jnp.asarray(jnp.inf, state.measure.dtype)
        return Past(alpha, jnp.zeros_like(state.measure.points), state.measure.points, alpha, gap, stiffest)

    def step(self, flow, state, evaluation, dt, key, memory: Past) -> Step:
        domain, start = flow.domain, state.measure.points
        model = Model(flow, state, memory.alpha)
        stiffest, rate = model.stiffest(memory.stiffest, NEXT)
        bend = (memory.alpha_before - model.alpha) - model.answer(model.moved(memory.points))

        power = jnp.where(jnp.isinf(memory.gap), 2, 3)

        def predicted(points, time, missed):
            linear = model.alpha + model.answer(model.moved(points))
            return linear + (time / memory.gap) ** 2 * bend + (time / dt) ** power * missed

        def travelled(missed):
            def velocity(along, time):
                points = jax.vmap(domain.retract)(start, along)
                return model.velocity(points, predicted(points, time, missed))

            def substep(along, i):
                h = dt / self.substeps
                time = i * h
                k1 = velocity(along, time)
                k2 = velocity(along + 0.5 * h * k1, time + 0.5 * h)
                k3 = velocity(along + 0.5 * h * k2, time + 0.5 * h)
                k4 = velocity(along + h * k3, time + h)
                return along + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6, None

            return jax.lax.scan(substep, memory.late, jnp.arange(self.substeps))[0]

        along = travelled(jnp.zeros_like(memory.alpha))
        moved = flow.move(state, Tangent(points=along), 1.0)
        points = moved.measure.points
        now, solution = descent(flow.energy, domain, moved.measure, state.carry)
        alpha = _alpha(flow.energy, solution.potential.dual)
        missed = alpha - predicted(points, dt, 0.0)
        late = travelled(missed) - along
        error = scaled_error(state, moved, Tangent(points=late / dt), dt, self.rtol, self.atol)
        late = jax.vmap(domain.project)(points, late)
        limit = STABLE * self.substeps / jnp.where(rate > 0, rate, jnp.finfo(rate.dtype).tiny)
        now = eqx.tree_at(lambda e: e.max_step, now, limit.astype(now.max_step.dtype))
        past = Past(alpha, late, start, memory.alpha, dt, stiffest)
        return Step(
            moved.with_carry(now.carry), now, error.astype(start.dtype), past, jnp.zeros((), jnp.int32)
        )


def _alpha(energy: ReducedRisk, dual: Array) -> Array:
    """The dual variable in units of sqrt(p) from p alpha."""
    root = jnp.sqrt(energy.data.weights).astype(dual.dtype)
    return jnp.where(root > 0, dual / jnp.where(root > 0, root, 1), 0)


class Model:
    """The dual variable near a state, to first order in the displacements of particles."""

    def __init__(self, flow: Wasserstein, state: State, alpha: Array):
        self.flow, self.alpha = flow, alpha
        energy, mu = flow.energy, state.measure
        self.start, self.prepared = mu.points, state.carry.prepared.value
        problem = energy.problem(mu, self.prepared)
        self.root = jnp.sqrt(energy.data.weights).astype(alpha.dtype)
        f = energy.regularizer
        scores = problem.scores(alpha)
        gain = jax.jvp(f.conjugate_derivative, (scores,), (jnp.ones_like(scores),))[1]
        soft = problem.masses * gain
        apply = factored_solve(*jax.lax.stop_gradient((problem.matrix, soft, problem.lam)))
        product = lambda b: problem.output(gain * problem.scores(b)) + problem.lam * b

        def at(points):
            return energy.problem(eqx.tree_at(lambda m: m.points, mu, points), self.prepared).stationarity(
                alpha
            )

        push = jax.linearize(at, mu.points)[1]
        self.answer = lambda moved: jax.lax.custom_linear_solve(
            product, push(moved), lambda _, b: apply(b), symmetric=True
        )

    def moved(self, points):
        return jax.vmap(self.flow.domain.displacement)(points, self.start)

    def velocity(self, points, alpha):
        from mfjax.energies.reduced_risk import DualPotential

        energy = self.flow.energy
        potential = DualPotential(
            energy.features, energy.data.x, self.root * alpha, energy.regularizer, self.prepared
        )
        return jax.vmap(self.flow.domain.velocity)(points, -potential.slopes(points))

    def stiffest(self, direction, iterations: int):
        at = lambda alpha: self.velocity(self.start, alpha)

        def improve(direction, _):
            unit = direction / jnp.maximum(safe_norm(direction.ravel()), jnp.finfo(direction.dtype).tiny)
            new = jax.jvp(at, (self.alpha,), (self.answer(unit),))[1]
            return new, safe_norm(new.ravel())

        direction, rates = jax.lax.scan(improve, direction, length=iterations)
        return direction, rates[-1]
