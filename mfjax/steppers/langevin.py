"""Euler-Maruyama for flows with noise."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Array, Float, ScalarLike

from mfjax.steppers.base import Step, Stepper, StepSizes, settle, step_sizes
from mfjax.steppers.noise import brownian, require_particles


class EulerMaruyama(Stepper):
    """Explicit Euler with noise: Langevin dynamics of particles.

    x <- retract(x - dt grad V + sqrt(2 T dt) xi), T the temperature of the flow, xi standard normal.

    Weak order 1. Strong order 1 on Euclidean space and tori where T does not depend on the state, and 1/2
    on spheres, where the projection of the noise depends on the point. `xi` is tangent to the
    domain, and depends only on (key, step, particle index), so padding changes no particle's noise, and
    two runs with the same key and step are coupled synchronously: their difference has no noise.
    Reflected at the faces of a box. Without noise it is `Euler`. `StochasticHeun` has weak order 2.
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[tuple[int, int] | None] = (1, 1)
    noisy: ClassVar[bool] = True
    dt: Float[Array, ""] | StepSizes

    def __init__(self, dt: ScalarLike | Callable):
        self.dt = step_sizes(dt)

    def validate(self, flow, mu):
        require_particles(type(self).__name__, mu)
        super().validate(flow, mu)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        noise = brownian(flow, state, evaluation, dt, key) if flow.stochastic else None
        return settle(flow, flow.move(state, evaluation.tangent, dt, noise))
