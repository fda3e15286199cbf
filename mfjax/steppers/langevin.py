"""Euler-Maruyama for flows with noise."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import safe_sqrt
from mfjax.measures import Particles
from mfjax.steppers.base import Step, Stepper, settle, step_size


class EulerMaruyama(Stepper):
    """x <- retract(x - dt grad V + sqrt(2 T dt) xi), T the temperature of the flow, xi standard normal.

    Weak order 1. Strong order 1 on Euclidean space and tori where T does not depend on the state, and 1/2
    on spheres, where the projection of the noise depends on the point. `xi` is tangent to the
    domain, and depends only on (key, step, particle index), so padding changes no particle's noise.
    Reflected at the faces of a box. Without noise it is `Euler`.
    """

    order: ClassVar[int] = 1
    noisy: ClassVar[bool] = True
    dt: Float[Array, ""]

    def __init__(self, dt: ScalarLike):
        self.dt = step_size(dt)

    def validate(self, flow, mu):
        if not isinstance(mu, Particles):
            raise ValueError(
                f"EulerMaruyama moves particles, got a {type(mu).__name__}: there entropy is diffusion, use "
                "stepper=None"
            )

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        if not flow.stochastic:
            return settle(flow, flow.move(state, evaluation.tangent, dt))
        points = state.measure.points
        keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(points.shape[0]))
        xi = jax.vmap(lambda k: jr.normal(k, points.shape[1:], points.dtype))(keys)
        temperature = jnp.asarray(flow.temperature).astype(points.dtype)
        noise = safe_sqrt(2 * temperature * dt) * jax.vmap(flow.domain.project)(points, xi)
        return settle(flow, flow.move(state, evaluation.tangent, dt, noise))
