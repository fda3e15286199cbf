"""Newton's method on finitely many unknowns of the Gibbs equation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import frozen
from mfjax.energies.dual import Dual
from mfjax.theory.gibbs_measure.problem import EntropicProblem

# Newton steps taken, with derivatives, after the search: the first is the implicit function theorem, each
# further one doubles the order up to which derivatives are exact.
POLISH = 2
HALVINGS = 30


class CellPotentials(eqx.Module):
    """The unknowns of any convex energy: the potential at the cells, z = V_m. One per cell."""

    start: Float[Array, " K"]
    problem: EntropicProblem

    def potential(self, unknowns):
        return unknowns

    def defect(self, unknowns, weights):
        return unknowns - self.problem.potential(weights)

    def merit(self, unknowns):
        """The free energy of e^{-z/T} / Z, which a Newton direction decreases for convex F."""
        return self.problem.free_energy(self.problem.masses(unknowns))


class Conjugate(eqx.Module):
    """The unknowns of an energy that is a supremum of linear ones, far fewer than the cells."""

    dual: Dual
    problem: EntropicProblem

    @property
    def start(self):
        return self.dual.start

    def potential(self, unknowns):
        return self.dual.potential(unknowns)

    def defect(self, unknowns, weights):
        return self.dual.defect(unknowns, weights)

    def merit(self, unknowns):
        """F*(z) + T log Z, minus the dual function: least at the solution."""
        return self.dual.conjugate(unknowns) + self.problem.log_partition(self.dual.potential(unknowns))


def direction(unknowns: Any, z: Array) -> Array:
    """The Newton step -G'(z)^{-1} G(z) of G(z) = defect(z, e^{-V_z/T} / Z)."""
    equation = lambda z: unknowns.defect(z, unknowns.problem.masses(unknowns.potential(z)))
    return -jnp.linalg.solve(jax.jacfwd(equation)(z), equation(z))


def newton(unknowns: Any, tolerance: Array, iterations: int) -> tuple[Array, Array]:
    """(masses, Newton iterations): damped steps that decrease the merit, then steps with derivatives."""
    z, count, found = _search(frozen(unknowns), tolerance, iterations)
    z = jax.lax.stop_gradient(z)
    # A search that failed stays where it stopped.
    polish = lambda z, _: (z + jnp.where(found, direction(unknowns, z), 0), None)
    z, _ = jax.lax.scan(polish, z, length=POLISH)
    return unknowns.problem.masses(unknowns.potential(z)), count


def _search(unknowns: Any, tolerance: Array, iterations: int) -> tuple[Array, Array, Array]:
    problem = unknowns.problem
    slack = 64 * float(jnp.finfo(problem.grid.dtype).eps)

    def running(loop):
        _, residual, count, moving = loop
        return (residual > tolerance) & (count < iterations) & moving

    def iterate(loop):
        z, _, count, _ = loop
        step = direction(unknowns, z)
        merit, slope = jax.jvp(unknowns.merit, (z,), (step,))
        bar = merit + slack * (1 + jnp.abs(merit))

        def too_long(search):
            size, tried = search
            # Written so that a NaN is too long.
            enough = unknowns.merit(z + size * step) <= bar + 1e-4 * size * slope
            return ~enough & (tried < HALVINGS)

        size, tried = jax.lax.while_loop(
            too_long, lambda s: (0.5 * s[0], s[1] + 1), (jnp.ones((), z.dtype), 0)
        )
        moving = (tried < HALVINGS) & jnp.all(jnp.isfinite(step))
        z = jnp.where(moving, z + size * step, z)
        return z, _residual(unknowns, z), count + 1, moving

    zero = jnp.zeros((), jnp.int32)
    loop = (unknowns.start, _residual(unknowns, unknowns.start), zero, jnp.array(True))
    z, residual, count, _ = jax.lax.while_loop(running, iterate, loop)
    return z, count, residual <= tolerance


def _residual(unknowns: Any, z: Array) -> Array:
    problem = unknowns.problem
    return problem.residual(problem.masses(unknowns.potential(z)))
