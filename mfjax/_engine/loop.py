"""The loop over time, pure: from saved time to saved time, for use inside `jit`, `vmap` and `grad`."""

from collections.abc import Callable
from math import ceil, sqrt
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfjax import status as codes
from mfjax._engine.interval import interval_by_steps
from mfjax._engine.record import observed
from mfjax._engine.reverse_mode import loop
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry, fail, joined, select, split, start
from mfjax._engine.system import System, fixed_step
from mfjax._numerics.arrays import frozen, known


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
