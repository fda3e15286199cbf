"""The only loop over time, pure: from state to state, for use inside `jit`, `vmap` and `grad`."""

from collections.abc import Callable
from math import ceil, sqrt
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._engine.record import observed
from mfjax._engine.reverse_mode import loop
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry, fail, joined, one_step, select, split, start
from mfjax._numerics.arrays import frozen, known
from mfjax.steppers.base import StepSizes


class System(eqx.Module):
    """What the loops see of a run: a step, a record, the times, and no hidden number.

    `attempt(carry, time, dt)` is `one_step`, `observe(carry)` is `observed`, of a carry without what stays;
    `dt` is the fixed step, or the function from the number of a step to its size, if there is one.
    """

    attempt: Callable[[Carry, Array, Array], tuple[Carry, Array, Array]]
    observe: Callable[[Carry], tuple[Carry, Any]]
    times: Float[Array, " S1"]
    dt: Float[Array, ""] | StepSizes | None
    order: int = eqx.field(static=True)
    save_every: int | None = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    checkpoints: int | None = eqx.field(static=True)
    countable: bool = eqx.field(static=True)

    @staticmethod
    def of(sim: Simulation, fixed: Any, closed: Carry | None = None) -> "System":
        """The system of `sim` for carries without what is `fixed`.

        With a carry, `closed`: whatever traced numbers its functions reach are leaves.
        """
        attempt, observe = eqx.Partial(_attempt, sim, fixed), eqx.Partial(_observe, sim, fixed)
        dt = sim.stepper.dt
        if closed is not None:
            attempt = _Keyless.of(eqx.filter_closure_convert(attempt, closed, closed.dt, closed.dt))
            observe = _Keyless.of(eqx.filter_closure_convert(observe, closed))
            if isinstance(dt, StepSizes):
                dt = StepSizes(eqx.filter_closure_convert(dt.size, closed.steps))
        options = (sim.stepper.order, sim.save_every, sim.max_steps, sim.checkpoints, sim.countable)
        return System(attempt, observe, sim.times, dt, *options)

    @property
    def sizes(self) -> StepSizes | None:
        """The sizes of steps that differ by their numbers."""
        return self.dt if isinstance(self.dt, StepSizes) else None

    def next_step(self, carry: Carry, begin: Array) -> tuple[Array, Array]:
        """(time, size) of the next of the steps, fixed in advance, after the saved time `begin`."""
        dtype = carry.dt.dtype
        if self.sizes is not None:
            return jnp.asarray(carry.state.time, dtype), self.sizes(carry.steps).astype(dtype)
        dt = cast(Array, self.dt).astype(dtype)
        return begin + carry.taken.astype(dtype) * dt, dt

    def interval(self, carry: Carry) -> tuple[Array, Array]:
        """The saved times between which a run is."""
        times = self.times.astype(carry.dt.dtype)
        return times[carry.save], times[carry.save + 1]


def _attempt(sim: Simulation, fixed: Any, moving: Carry, time: Array, dt: Array):
    kept, error, status = one_step(sim, joined(moving, fixed), time, dt)
    return split(kept)[0], error, status


def _observe(sim: Simulation, fixed: Any, moving: Carry):
    carry, values = observed(sim, joined(moving, fixed))
    return split(carry)[0], values


class _RawKey(eqx.Module):
    data: Array
    kind: Any = eqx.field(static=True)


class _Keyless(eqx.Module):
    """A function whose leaves are numbers: JAX cannot keep a random key for reverse mode inside a choice."""

    function: Any

    @staticmethod
    def of(function: Callable) -> "_Keyless":
        is_key = lambda x: eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        apart = lambda x: _RawKey(jr.key_data(x), jr.key_impl(x)) if is_key(x) else x
        return _Keyless(jax.tree.map(apart, function))

    def __call__(self, *arguments):
        is_raw = lambda x: isinstance(x, _RawKey)
        whole = lambda x: jr.wrap_key_data(x.data, impl=x.kind) if is_raw(x) else x
        return jax.tree.map(whole, self.function, is_leaf=is_raw)(*arguments)


def fixed_step(system: System, carry: Carry, time: Array, dt: Array) -> Carry:
    """One step of size `dt` from `time`; a failed run stays where it was."""
    kept, _, status = system.attempt(carry, time, dt)
    moved = select(status == codes.OK, kept, fail(carry, status))
    return select(carry.status == codes.OK, moved, carry)


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


def equal_steps(system: System, begin: Array, end: Array) -> tuple[Array, Array]:
    """(number, size) of equal steps between two times, the longest that do not exceed the stepper's size."""
    dt = cast(Array, system.dt).astype(begin.dtype)
    # The rounding of the two times, counted in steps: it must not add a step to a whole number of them.
    slack = 2 * float(jnp.finfo(dt.dtype).eps) * end / dt
    n = jnp.where(end > begin, jnp.maximum(jnp.ceil((end - begin) / dt - slack), 1), 0)
    return n.astype(jnp.int32), (end - begin) / jnp.maximum(n, 1).astype(dt.dtype)


def next_save(system: System, carry: Carry) -> Carry:
    """Advance a run from one saved time to the next."""
    if system.save_every is not None:
        return equally(system, carry, system.save_every)
    begin, end = system.interval(carry)
    if system.dt is None or system.sizes is not None:
        return interval_by_steps(system, carry, begin, end)[0]
    n, dt = equal_steps(system, begin, end)
    number = lambda c: begin + c.taken.astype(dt.dtype) * dt
    return jax.lax.fori_loop(0, n, lambda _, c: fixed_step(system, c, number(c), dt), carry)


def equally(system: System, carry: Carry, steps: Any) -> Carry:
    """Advance by `steps` steps of the stepper's size."""
    begin, _ = system.interval(carry)
    body = lambda _, c: fixed_step(system, c, *system.next_step(c, begin))
    return jax.lax.fori_loop(0, steps, body, carry)


def reach(system: System, carry: Carry) -> tuple[Carry, Any]:
    """The carry that has reached the next saved time, and its record."""
    # A run that has stopped keeps its time: it may go on from there.
    time = jnp.where(carry.status == codes.OK, system.interval(carry)[1], carry.state.time)
    state = carry.state.at_time(time)
    where = lambda c: (c.state, c.save, c.taken)
    carry = eqx.tree_at(where, carry, (state, carry.save + 1, jnp.zeros_like(carry.taken)))
    return system.observe(carry)


def replay_save(system: System, carry: Carry) -> Carry:
    """`next_save` in a form with both modes of differentiation, step sizes being constants.

    An interval is divided in fixed ratios: its steps are constants times its length. Those of an adaptive run
    are found first, without derivatives, and its accepted steps are taken once more.
    """
    begin, end = system.interval(carry)
    if system.save_every is not None:
        n = system.save_every
        return replay(system, carry, lambda i, c: system.next_step(c, begin), n, n)
    if system.dt is not None and system.sizes is None:
        n, dt = equal_steps(system, begin, end)
        step = lambda i, c: (begin + i.astype(dt.dtype) * dt, dt)
        moved = replay(system, carry, step, n, system.max_steps)
        return select(n > system.max_steps, fail(moved, jnp.asarray(codes.STEP_BUDGET, jnp.int32)), moved)
    still = frozen((system, carry, begin, end))
    found, mesh = interval_by_steps(*still, jnp.zeros(system.max_steps, carry.dt.dtype))
    mesh, length = known(mesh), end - begin
    growth = length / jnp.where(length > 0, frozen(length), 1)
    before = jnp.cumsum(mesh) - mesh
    step = lambda i, c: (begin + before[i] * growth, mesh[i] * growth)
    moved = replay(system, carry, step, found.steps - carry.steps, system.max_steps)
    where = lambda c: (c.dt, c.rejected, c.status, c.failed_at)
    return eqx.tree_at(where, moved, where(found))


def replay(
    system: System, carry: Carry, step: Callable[[Array, Carry], tuple[Array, Array]], count: Any, bound: int
) -> Carry:
    """`count` <= `bound` steps, number i from time and of length `step(i, carry)`."""

    def body(i, carry):
        time, dt = step(i, carry)
        kept, _, status = system.attempt(carry, time, dt)
        moved = select(status == codes.OK, kept, fail(carry, status))
        return select(carry.status == codes.OK, moved, carry), None

    return loop(body, carry, count, bound, kept_carries(system))[0]


def poisoned(carry: Carry) -> Carry:
    """NaN if the run has failed: a choice of the last good state would have derivatives, of another run."""
    factor = jnp.where(carry.status > 0, jnp.nan, 1.0)
    spoil = lambda x: x * factor.astype(x.dtype) if eqx.is_inexact_array(x) else x
    where = lambda c: (c.state, c.evaluation)
    return eqx.tree_at(where, carry, jax.tree.map(spoil, where(carry)))


def kept_carries(system: System) -> int:
    """The carries that reverse mode keeps on each level of its loops."""
    if system.checkpoints is not None:
        return system.checkpoints
    saves = system.times.shape[0] - 1
    longest = system.max_steps if system.save_every is None else saves * system.save_every
    return max(2, ceil(sqrt(longest)))


def replay_saves(system: System, carry: Carry, first: Any) -> tuple[Carry, Any]:
    """`whole` in a form with both modes of differentiation."""
    body = lambda _, c: reach(system, poisoned(replay_save(system, c)))
    saves = system.times.shape[0] - 1
    blank = jax.tree.map(jnp.zeros_like, first)
    carry, rest = loop(body, carry, saves, saves, kept_carries(system), blank)
    return carry, stacked(first, rest)


@eqx.filter_custom_jvp
def whole(system: System, carry: Carry, first: Any) -> tuple[Carry, Any]:
    """(carry, all records) from t = 0, where the record is `first`, to the end.

    Only a differentiated run takes the loops that reverse mode can pass: they cost more, the more so in a
    batch of adaptive runs.
    """
    body = lambda c, _: reach(system, next_save(system, c))
    carry, rest = jax.lax.scan(body, carry, length=system.times.shape[0] - 1)
    return carry, stacked(first, rest)


@whole.def_jvp
def _(primals, tangents):
    system = primals[0]
    if not system.countable:
        raise ValueError(
            f"this run takes more than max_steps = {system.max_steps} steps of a fixed size between two "
            "saved times, and the loop of its derivative has that length: raise max_steps, or pass steps="
        )
    return eqx.filter_jvp(replay_saves, primals, tangents)


def stacked(first: Any, rest: Any) -> Any:
    """The record at t = 0 and the stacked later ones as one.

    Inside `whole`, where it also brings the axis of a batch to the front: JAX wants it in one place, whether
    a run is differentiated or not.
    """
    return jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, rest)


def begin(sim: Simulation) -> tuple[Carry, Any]:
    """The carry and the record at the first time."""
    return observed(sim, start(sim))


def advance(sim: Simulation, carry: Carry, saves: Array, capacity: int) -> tuple[Carry, Any]:
    """Advance over `saves` <= `capacity` saved times: (carry, records), the first `saves` of them filled.

    The number is no part of the program, so that a run may be cut anywhere without another rounding.
    """
    moving, fixed = split(carry)
    system = System.of(sim, fixed)
    like = jax.eval_shape(lambda c: reach(system, c)[1], moving)
    blank = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), like)

    def body(i, loop):
        moving, records = loop
        moving, values = reach(system, next_save(system, moving))
        return moving, jax.tree.map(lambda all, one: all.at[i].set(one), records, values)

    moving, records = jax.lax.fori_loop(0, saves, body, (moving, blank))
    return joined(moving, fixed), records


def advance_steps(sim: Simulation, carry: Carry, steps: Array) -> Carry:
    """Advance a run of fixed steps by `steps` of them."""
    moving, fixed = split(carry)
    return joined(equally(System.of(sim, fixed), moving, steps), fixed)


def close(sim: Simulation, carry: Carry) -> tuple[Carry, Any]:
    """The carry that has reached the next saved time, and its record."""
    moving, fixed = split(carry)
    moving, values = reach(System.of(sim, fixed), moving)
    return joined(moving, fixed), values


def trajectory(sim: Simulation) -> tuple[Carry, Any]:
    """The pure core: the whole run, t = 0 included, for use inside `jit`, `vmap` and `grad`."""
    carry, first = begin(sim)
    moving, fixed = split(carry)
    moving, values = whole(System.of(sim, fixed, moving), moving, first)
    return joined(moving, fixed), values
