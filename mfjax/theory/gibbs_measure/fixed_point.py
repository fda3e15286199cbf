"""The damped fixed point of the Gibbs equation, in the logarithm of the density."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfjax.theory.gibbs_measure.problem import EntropicProblem

GROW, SHRINK, SMALLEST = 1.2, 0.5, 1e-6


def fixed_point(problem: EntropicProblem, tolerance: Array, iterations: int) -> tuple[Array, Array]:
    """(masses, iterations) of log m <- (1 - theta) log m - theta V_m / T + const.

    theta grows while the free energy falls and halves where it would rise; below the rounding of the free
    energy the root mean square of log m + V_m / T, its deviation from a constant, decides instead.
    """
    grid, temperature = problem.grid, problem.temperature
    slack = 64 * float(jnp.finfo(grid.dtype).eps)

    def seen(height):
        weights = problem.masses(temperature * -height)
        potential = problem.potential(weights)
        misfit = -potential / temperature - height
        misfit = problem.centered(misfit, weights)
        residual = jnp.sum(jnp.abs(weights - problem.masses(potential))) / grid.mass
        size = jnp.sqrt(jnp.sum(weights * misfit**2) / grid.mass)
        return problem.free_energy(weights), size, misfit, residual

    def running(loop):
        _, (_, _, _, residual), theta, count = loop
        return (residual > tolerance) & (count < iterations) & (theta > SMALLEST)

    def iterate(loop):
        height, now, theta, count = loop
        free, size, misfit, _ = now
        proposal = height + theta * misfit
        new = seen(proposal)
        blur = slack * (1 + jnp.abs(free))
        good = (new[0] < free - blur) | ((new[0] <= free + blur) & (new[1] < size))
        pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(good, x, y), a, b)
        theta = jnp.where(good, jnp.minimum(GROW * theta, 1.0), SHRINK * theta)
        return pick(proposal, height), pick(new, now), theta, count + 1

    start = jnp.log(jnp.maximum(grid.weights / grid.relative_volume, jnp.finfo(grid.dtype).tiny))
    loop = (start, seen(start), jnp.ones((), grid.dtype), jnp.zeros((), jnp.int32))
    height, _, _, count = jax.lax.while_loop(running, iterate, loop)
    return problem.masses(temperature * -height), count
