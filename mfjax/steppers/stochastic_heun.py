"""Heun's scheme for flows with noise: second order in law."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Array, Float, ScalarLike

from mfjax.steppers.base import Step, Stepper, StepSizes, settle, step_sizes
from mfjax.steppers.explicit import HEUN, combine, runge_kutta
from mfjax.steppers.noise import brownian, require_particles


class StochasticHeun(Stepper):
    """A scheme of weak order two for particles with noise.

    x^ = x + dt b(x) + B, x <- x + dt/2 (b(x) + b(x^)) + B, b = -grad V, B = sqrt(2 T dt) xi in both.

    The interaction is evaluated again at the predicted particles x^. Two solves per step.

    - Weak order 2 on Euclidean space and tori, where the noise is additive (T does not depend on the
      state): expectations of smooth functions of finitely many interacting particles at a given time.
    - Strong order 1: path by path it gains only a smaller constant over `EulerMaruyama`; order 3/2 needs
      a second random number per step.
    - Order 2 is lost on spheres, where the projected noise depends on the point, and at the faces of a box,
      where reflection is a scheme of weak order 1. There it is weakly first order, as `EulerMaruyama`.
    - xi depends only on (key, step, particle index), exactly as in `EulerMaruyama`: with one key and step
      both schemes, and runs from two starts, see the same noise.

    Without noise it is `Heun`. **Good values**: twice the step of `EulerMaruyama`, for the same cost;
    stable below 2 / (largest rate).

    Source: P. Kloeden, E. Platen, Numerical Solution of Stochastic Differential Equations (1992), section
    15.1 for additive noise, applied to the system of all particles.

    >>> import jax.random as jr, mfjax as mf
    >>> flow = mf.flows.Wasserstein(
    ...     mf.energies.Potential(lambda x: x[0] ** 2) + 0.5 * mf.energies.Entropy(), mf.domains.Euclidean(1)
    ... )
    >>> mu = mf.measures.Particles.sample(flow.domain, jr.key(0), 100)
    >>> run = mf.simulate(flow, mu, stepper=StochasticHeun(0.1), steps=20, key=jr.key(1))
    >>> bool(run.final.points.var() < 0.4)
    True
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[tuple[int, int] | None] = (1, 2)
    noisy: ClassVar[bool] = True
    dt: Float[Array, ""] | StepSizes

    def __init__(self, dt: ScalarLike | Callable):
        self.dt = step_sizes(dt)

    def validate(self, flow, mu):
        require_particles(type(self).__name__, mu)
        super().validate(flow, mu)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        if not flow.stochastic:
            return settle(flow, runge_kutta(HEUN, flow, state, evaluation, dt)[0])
        noise = brownian(flow, state, evaluation, dt, key)
        predicted = flow.move(state, evaluation.tangent, dt, noise)
        there = flow.evaluate(predicted.with_carry(state.carry))
        mean = combine(HEUN.b, [evaluation.tangent, there.tangent])
        moved = flow.move(state, mean, dt, noise)
        return settle(flow, moved.with_carry(there.carry))
