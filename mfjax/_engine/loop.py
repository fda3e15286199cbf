"""The only loop over time, pure: from state to state, for use inside `jit`, `vmap` and `grad`.

The host driver around it (progress, disk, checkpoints, exceptions) is in `mfjax._engine.host`.
"""

from collections.abc import Callable
from math import ceil, sqrt
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfjax import status as codes
from mfjax._engine.checkpointing import loop
from mfjax._engine.pieces import Pieces, pieces
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry, fail, record, select, split, start, whole_again


def fixed_step(run: Pieces, carry: Carry, dt: Array) -> Carry:
    """One step of size `dt`; a run that has failed stays where it was."""
    kept, _, status = run.attempt(carry, dt)
    moved = select(status == codes.OK, kept, fail(carry, status))
    return select(carry.status == codes.OK, moved, carry)


SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


def adaptive_interval(
    run: Pieces, carry: Carry, begin: Array, end: Array, mesh: Array | None = None
) -> tuple[Carry, Array | None]:
    """Adaptive steps from one saved time to the next, landing on it exactly.

    Their sizes are written to `mesh`, if one is given.
    """
    eps = float(jnp.finfo(carry.dt.dtype).eps)
    exponent = -1.0 / run.order

    def running(loop):
        carry, time, tries, _ = loop
        return (carry.status == codes.OK) & (time < end) & (tries < run.max_steps)

    def attempt(loop):
        carry, time, tries, mesh = loop
        allowed = jnp.minimum(carry.dt, carry.evaluation.max_step)
        remaining = end - time
        last = allowed >= remaining * (1 - 10 * eps)
        # Two equal steps rather than one long and one tiny step before the saved time.
        dt = jnp.where(last, remaining, jnp.minimum(allowed, jnp.maximum(0.5 * remaining, 0.6 * allowed)))
        kept, error, status = run.attempt(carry, dt)
        good = (status == codes.OK) & (error <= 1)
        factor = jnp.clip(SAFETY * jnp.maximum(error, 1e-10) ** exponent, SHRINK, GROW)
        # A NaN error or a fault says nothing of the right size: shrink.
        factor = jnp.where((status == codes.OK) & jnp.isfinite(error), factor, SHRINK)
        proposal = dt * jnp.where(good, factor, jnp.minimum(factor, SAFETY))
        # A step cut short by a saved time says little of the size that accuracy allows.
        proposal = jnp.where(good, jnp.maximum(proposal, jnp.where(error < 0.5, carry.dt, 0.0)), proposal)
        rejected = eqx.tree_at(lambda c: c.rejected, carry, carry.rejected + 1)
        new = select(good, kept, rejected)
        new = eqx.tree_at(lambda c: c.dt, new, proposal)
        # Relative to the time reached, not to the end: a stiff start needs steps far below eps * end.
        stuck = ~good & (dt <= 16 * eps * jnp.maximum(time, 1e-4 * end))
        cause = jnp.where(status == codes.OK, codes.STEP_UNDERFLOW, status)
        new = select(stuck, fail(new, cause.astype(jnp.int32)), new)
        time = jnp.where(good, jnp.where(last, end, time + dt), time)
        if mesh is not None:
            # A rejected step is overwritten by the next one.
            mesh = mesh.at[carry.steps - first].set(dt)
        return new, time, tries + 1, mesh

    first = carry.steps
    start = (carry, begin, jnp.zeros((), jnp.int32), mesh)
    carry, time, _, mesh = jax.lax.while_loop(running, attempt, start)
    unfinished = (carry.status == codes.OK) & (time < end)
    out_of_steps = jnp.asarray(codes.STEP_BUDGET, jnp.int32)
    return select(unfinished, fail(carry, out_of_steps), carry), mesh


def equal_steps(run: Pieces, begin: Array, end: Array) -> tuple[Array, Array]:
    """(number, size) of equal steps between two times, the longest that do not exceed the stepper's size."""
    dt = run.dt.astype(begin.dtype)
    # The rounding of the two times, counted in steps: it must not add a step to a whole number of them.
    slack = 2 * float(jnp.finfo(dt.dtype).eps) * end / dt
    n = jnp.where(end > begin, jnp.maximum(jnp.ceil((end - begin) / dt - slack), 1), 0)
    return n.astype(jnp.int32), (end - begin) / jnp.maximum(n, 1)


def next_save(run: Pieces, carry: Carry) -> Carry:
    """Advance a run from one saved time to the next."""
    if run.save_every is not None:
        return equally(run, carry, run.save_every)
    times = run.times.astype(carry.dt.dtype)
    begin, end = times[carry.save], times[carry.save + 1]
    if run.dt is None:
        return adaptive_interval(run, carry, begin, end)[0]
    n, dt = equal_steps(run, begin, end)
    return jax.lax.fori_loop(0, n, lambda _, c: fixed_step(run, c, dt), carry)


def equally(run: Pieces, carry: Carry, steps: int) -> Carry:
    """Advance by `steps` steps of the stepper's size."""
    dt = run.dt.astype(carry.dt.dtype)
    return jax.lax.scan(lambda c, _: (fixed_step(run, c, dt), None), carry, length=steps)[0]


def reach(run: Pieces, carry: Carry) -> tuple[Carry, Any]:
    """The carry that has reached the next saved time, and its record."""
    carry = eqx.tree_at(lambda c: c.save, carry, carry.save + 1)
    return carry, run.observe(carry)


def replay_save(run: Pieces, carry: Carry) -> Carry:
    """`next_save` in a form with both modes of differentiation, step sizes being constants.

    An interval is divided in fixed ratios: its steps are constants times its length. Those of an adaptive run
    are found first, without derivatives, and its accepted steps are taken once more.
    """
    if run.save_every is not None:
        dt, n = run.dt.astype(carry.dt.dtype), run.save_every
        return replay(run, carry, lambda i: dt, n, n)
    times = run.times.astype(carry.dt.dtype)
    begin, end = times[carry.save], times[carry.save + 1]
    if run.dt is not None:
        n, dt = equal_steps(run, begin, end)
        moved = replay(run, carry, lambda i: dt, n, run.max_steps)
        return select(n > run.max_steps, fail(moved, jnp.asarray(codes.STEP_BUDGET, jnp.int32)), moved)
    frozen = constant((run, carry, begin, end))
    found, mesh = adaptive_interval(*frozen, jnp.zeros(run.max_steps, carry.dt.dtype))
    length = end - begin
    growth = length / jnp.where(length > 0, constant(length), 1)
    moved = replay(run, carry, lambda i: mesh[i] * growth, found.steps - carry.steps, run.max_steps)
    where = lambda c: (c.dt, c.rejected, c.status, c.failed_at)
    return eqx.tree_at(where, moved, where(found))


def replay(run: Pieces, carry: Carry, size: Callable[[Array], Array], count: Any, bound: int) -> Carry:
    """`count` <= `bound` steps, number i of length `size(i)`."""
    body = lambda i, c: (fixed_step(run, c, size(i)), None)
    return loop(body, carry, count, bound, kept_carries(run))[0]


def poisoned(carry: Carry) -> Carry:
    """NaN if the run has failed: a choice of the last good state would have derivatives, of another run."""
    factor = jnp.where(carry.status > 0, jnp.nan, 1.0)
    spoil = lambda x: x * factor.astype(x.dtype) if eqx.is_inexact_array(x) else x
    where = lambda c: (c.state, c.evaluation)
    return eqx.tree_at(where, carry, jax.tree.map(spoil, where(carry)))


def kept_carries(run: Pieces) -> int:
    """The carries that reverse mode keeps on each level of its loops."""
    if run.checkpoints is not None:
        return run.checkpoints
    saves = run.times.shape[0] - 1
    longest = run.max_steps if run.save_every is None else saves * run.save_every
    return max(2, ceil(sqrt(longest)))


def constant(tree: Any) -> Any:
    """`tree` without its derivatives."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def through_saves(run: Pieces, carry: Carry, saves: int) -> tuple[Carry, Any]:
    """Advance over `saves` saved times; records have the saves as leading axis."""
    return jax.lax.scan(lambda c, _: reach(run, next_save(run, c)), carry, length=saves)


def replay_saves(run: Pieces, carry: Carry, first: Any) -> tuple[Carry, Any]:
    """`whole` in a form with both modes of differentiation."""
    body = lambda _, c: reach(run, poisoned(replay_save(run, c)))
    saves = run.times.shape[0] - 1
    blank = jax.tree.map(jnp.zeros_like, first)
    carry, rest = loop(body, carry, saves, saves, kept_carries(run), blank)
    return carry, joined(first, rest)


@eqx.filter_custom_jvp
def whole(run: Pieces, carry: Carry, first: Any) -> tuple[Carry, Any]:
    """(carry, all records) from t = 0, where the record is `first`, to the end.

    Only a differentiated run takes the loops that reverse mode can pass: they cost more, the more so in a
    batch of adaptive runs.
    """
    carry, rest = through_saves(run, carry, run.times.shape[0] - 1)
    return carry, joined(first, rest)


@whole.def_jvp
def _(primals, tangents):
    run = primals[0]
    if not run.countable:
        raise ValueError(
            f"this run takes more than max_steps = {run.max_steps} steps of a fixed size between two saved "
            "times, and the loop of its derivative has that length: raise max_steps, or pass steps="
        )
    return eqx.filter_jvp(replay_saves, primals, tangents)


def joined(first: Any, rest: Any) -> Any:
    """The record at t = 0 and the stacked later ones as one.

    Inside `whole`, where it also brings the axis of a batch to the front: JAX wants it in one place, whether
    a run is differentiated or not.
    """
    return jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, rest)


def close(sim: Simulation, carry: Carry) -> tuple[Carry, Any]:
    """The carry that has reached the next saved time, and its record."""
    moving, fixed = split(carry)
    moving, values = reach(pieces(sim, fixed), moving)
    return whole_again(moving, fixed), values


def steps_only(sim: Simulation, carry: Carry, steps: int) -> Carry:
    """Advance a run of fixed steps by `steps` of them."""
    moving, fixed = split(carry)
    return whole_again(equally(pieces(sim, fixed), moving, steps), fixed)


def advance(sim: Simulation, carry: Carry, saves: int) -> tuple[Carry, Any]:
    """Advance over `saves` saved times; records have the saves as leading axis."""
    moving, fixed = split(carry)
    moving, values = through_saves(pieces(sim, fixed), moving, saves)
    return whole_again(moving, fixed), values


def begin(sim: Simulation) -> tuple[Carry, Any]:
    """The carry and the record at t = 0."""
    carry = start(sim)
    return carry, record(sim, carry)


def trajectory(sim: Simulation) -> tuple[Carry, Any]:
    """The pure core: the whole run, t = 0 included, for use inside `jit`, `vmap` and `grad`."""
    carry, first = begin(sim)
    moving, fixed = split(carry)
    moving, values = whole(pieces(sim, fixed, moving), moving, first)
    return whole_again(moving, fixed), values
