"""The Brownian increment of one step, the same for every scheme."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from mfjax._numerics.arrays import safe_sqrt
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.measures import Measure, Particles, Tangent
from mfjax.steppers.base import with_clock


def brownian(
    flow: Flow, state: State, evaluation: Evaluation, dt: Array, key: Key[Array, ""] | None
) -> Tangent:
    """The noise of one step, tangent to the domain.

    sqrt(2 T dt) xi at the particles, T the temperature of the flow, xi the tangent part of a standard normal
    vector (`Domain.noise`); sqrt(2 T dt) xi, xi standard normal, for the marks that have a temperature.

    T is that of half a step later: its integral over the step to third order, where it depends on time.

    Zero without a `key`, which runs of a flow without noise need not have.

    Particle i draws from (key, i) alone, and `simulate` gives each step its own key: padding changes no
    particle's noise, and two runs with one key and one step size are coupled synchronously.
    """
    mu, halfway = state.measure, flow.at(with_clock(flow, state, evaluation, 0.5 * dt))
    if key is None:
        return Tangent(points=jnp.zeros_like(mu.points))
    keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(mu.size))
    normal = lambda keys, like: jax.vmap(lambda k: jr.normal(k, like.shape[1:], mu.dtype))(keys)
    size = lambda temperature: safe_sqrt(2 * jnp.asarray(temperature).astype(mu.dtype) * dt)
    points = size(halfway.temperature) * jax.vmap(flow.domain.noise)(mu.points, normal(keys, mu.points))
    marks = {}
    for k, (name, temperature) in enumerate(sorted(halfway.mark_temperatures.items())):
        apart = jax.vmap(lambda own, k=k: jr.fold_in(own, k))(keys)
        marks[name] = size(temperature) * normal(apart, mu.marks[name])
    return Tangent(points=points, marks=marks or None)


def require_particles(name: str, mu: Measure) -> None:
    """**Raises** `ValueError` unless `mu` are particles, which alone are driven by noise."""
    if not isinstance(mu, Particles):
        raise ValueError(
            f"{name} moves particles, got a {type(mu).__name__}: there entropy is diffusion, use stepper=None"
        )
