"""From one saved time to the next by steps of unequal sizes, adaptive or planned ones."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._engine.step import Carry, fail, select
from mfjax._engine.system import System, fixed_step
from mfjax.steppers.base import StepSizes


class Elapsed(eqx.Module):
    """The time since a saved time, summed with its rounding error kept.

    A stiff run takes steps that are far below the rounding of the time it has reached.
    """

    time: Float[Array, ""]
    lost: Float[Array, ""]

    def short_of(self, length: Array) -> Array:
        """Whether an interval of this length is not crossed yet."""
        return self.time - self.lost < length

    def rest(self, length: Array) -> Array:
        """What is left of an interval of this length."""
        return (length - self.time) + self.lost

    def fills(self, dt: Array, length: Array) -> Array:
        """Whether a step of this size would cross what is left, but for rounding."""
        return dt >= self.rest(length) * (1 - 10 * float(jnp.finfo(dt.dtype).eps))

    def after(self, dt: Array, last: Array, length: Array) -> "Elapsed":
        """The time after a step, which lands on the end of the interval exactly if it is the `last`."""
        added = dt - self.lost
        total = self.time + added
        lost = (total - self.time) - added
        return Elapsed(jnp.where(last, length, total), jnp.where(last, 0, lost))


class Crossing(eqx.Module):
    """A run between two saved times: the time since the first, steps tried, and their sizes if kept."""

    carry: Carry
    elapsed: Elapsed
    tries: Int[Array, ""]
    mesh: Float[Array, " S"] | None


def interval_by_steps(
    system: System, carry: Carry, begin: Array, end: Array, mesh: Array | None = None
) -> tuple[Carry, Array | None]:
    """Steps of unequal sizes from one saved time to the next, landing on it exactly.

    Their sizes are written to `mesh`, if one is given.
    """
    length, zero = end - begin, jnp.zeros_like(end)
    step = _adaptive_step if system.sizes is None else _planned_step
    start = Crossing(carry, Elapsed(zero, zero), jnp.zeros((), jnp.int32), mesh)
    unfinished = lambda now: (now.carry.status == codes.OK) & now.elapsed.short_of(length)

    def attempt(now: Crossing) -> Crossing:
        new, dt, good, last = step(system, now, begin, end)
        # A rejected step is overwritten by the next one.
        kept = None if now.mesh is None else now.mesh.at[now.carry.steps - carry.steps].set(dt)
        clock = select(good, now.elapsed.after(dt, last, length), now.elapsed)
        return Crossing(new, clock, now.tries + 1, kept)

    done = jax.lax.while_loop(lambda now: unfinished(now) & (now.tries < system.max_steps), attempt, start)
    out_of_steps = jnp.asarray(codes.STEP_BUDGET, jnp.int32)
    return select(unfinished(done), fail(done.carry, out_of_steps), done.carry), done.mesh


def _planned_step(
    system: System, now: Crossing, begin: Array, end: Array
) -> tuple[Carry, Array, Array, Array]:
    """(carry, size, whether it was taken, whether it was the last): of the size that its number gives."""
    length, carry = end - begin, now.carry
    dt = cast(StepSizes, system.sizes)(carry.steps).astype(carry.dt.dtype)
    last = now.elapsed.fills(dt, length)
    dt = jnp.where(last, now.elapsed.rest(length), dt)
    new = fixed_step(system, carry, begin + now.elapsed.time, dt)
    return new, dt, new.status == codes.OK, last


SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


def _adaptive_step(
    system: System, now: Crossing, begin: Array, end: Array
) -> tuple[Carry, Array, Array, Array]:
    """(carry, size, whether it was accepted, whether it was the last): of the size that its error allows."""
    length, carry, eps = end - begin, now.carry, float(jnp.finfo(end.dtype).eps)
    allowed = jnp.minimum(carry.dt, carry.evaluation.max_step)
    remaining, last = now.elapsed.rest(length), now.elapsed.fills(allowed, length)
    # Two equal steps rather than one long and one tiny step before the saved time.
    halved = jnp.minimum(allowed, jnp.maximum(0.5 * remaining, 0.6 * allowed))
    dt = jnp.where(last, remaining, halved)
    time = begin + now.elapsed.time
    kept, error, status = system.attempt(carry, time, dt)
    good = (status == codes.OK) & (error <= 1)
    factor = jnp.clip(SAFETY * jnp.maximum(error, 1e-10) ** (-1.0 / system.order), SHRINK, GROW)
    # A NaN error or a fault says nothing of the right size: shrink.
    factor = jnp.where((status == codes.OK) & jnp.isfinite(error), factor, SHRINK)
    proposal = dt * jnp.where(good, factor, jnp.minimum(factor, SAFETY))
    # A step cut short by a saved time says little of the size that accuracy allows.
    proposal = jnp.where(good, jnp.maximum(proposal, jnp.where(error < 0.5, carry.dt, 0.0)), proposal)
    rejected = eqx.tree_at(lambda c: c.rejected, carry, carry.rejected + 1)
    new = eqx.tree_at(lambda c: c.dt, select(good, kept, rejected), proposal)
    # Steps may be shorter than the rounding of the time, if they still move something. Relative to the
    # time reached, not to the end: a stiff start needs steps far below eps * end.
    scale = jnp.maximum(time, 1e-4 * end)
    at_rest = good & (dt <= 16 * eps * scale) & _equal(kept.state.measure, carry.state.measure)
    stuck = at_rest | (~good & (dt <= 16 * eps**2 * scale))
    # No step is small enough to mend this.
    stuck = stuck | (status == codes.NEGATIVE_FACTOR)
    cause = jnp.where(status == codes.OK, codes.STEP_UNDERFLOW, status)
    return select(stuck, fail(new, cause.astype(jnp.int32)), new), dt, good, last


def _equal(a: Any, b: Any) -> Array:
    """Whether two trees hold the same numbers."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.all(jnp.stack([jnp.all(x == y) for x, y in pairs if eqx.is_array(x)]))
