"""The only loop over time, pure: from state to state, one scan, for use inside `jit`, `vmap` and `grad`.

The host driver around it (progress, disk, checkpoints, exceptions) is in `mfjax.driver`.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax.flows.base import Evaluation, State
from mfjax.measures import Grid
from mfjax.simulation import Simulation


class Carry(eqx.Module):
    """The whole state of a run between two saves: what a checkpoint holds."""

    state: State
    evaluation: Evaluation
    memory: Any
    save: Int[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    dt: Float[Array, ""]
    dissipated: Float[Array, ""]
    status: Int[Array, ""]
    failed_at: Int[Array, ""]


def start(sim: Simulation) -> Carry:
    """The carry at t = 0."""
    state = sim.flow.init(sim.measure)
    evaluation = sim.flow.evaluate(state)
    state = state.with_carry(evaluation.carry)
    dtype = sim.measure.dtype
    zero = jnp.zeros((), jnp.int32)
    if sim.stepper.adaptive:
        # Traced times may begin with zero, or repeat one: an interval of no length is left at once.
        interval = jnp.min(jnp.where(sim.save_times > 0, sim.save_times, jnp.inf))
        dt = jnp.minimum(1e-3 * interval, evaluation.max_step).astype(dtype)
    else:
        dt = sim.stepper.dt.astype(dtype)
    return Carry(
        state=state,
        evaluation=evaluation,
        memory=sim.stepper.init(sim.flow, state),
        save=zero,
        steps=zero,
        rejected=zero,
        dt=dt,
        dissipated=jnp.zeros((), dtype),
        status=jnp.where(
            jnp.all(jnp.diff(sim.times) >= 0),
            jnp.where(evaluation.status > 0, evaluation.status, health(state, evaluation)),
            codes.UNORDERED_TIMES,
        ).astype(jnp.int32),
        failed_at=zero,
    )


def record(sim: Simulation, carry: Carry) -> tuple[Any, dict[str, Any]]:
    """What is saved of a run at one time: the part of the measure that moves, and the observables.

    Observables of a failed run are NaN, its measure is the last good one.
    """
    mu, flow = carry.state.measure, sim.flow.at(carry.state)
    # With noise the energy and this integral have no balance.
    random = sim.stepper.needs_key(sim.flow)
    values = {
        "energy": carry.evaluation.energy,
        "dissipation": carry.evaluation.dissipation,
        "dissipated": carry.dissipated * jnp.nan if random else carry.dissipated,
        "residual": carry.evaluation.residual,
        "mass": mu.mass,
        "min_weight": jnp.min(mu.weights),
    }
    values |= {name: observe(mu, flow) for name, observe in sim.observables.items()}
    failed = carry.status > 0

    def mask(value):
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return jnp.where(failed, jnp.nan, value)

    values = jax.tree.map(mask, values)
    values |= {"steps": carry.steps, "rejected": carry.rejected, "status": carry.status}
    if not sim.save_measures:
        return None, values
    return ((mu.weights, mu.marks) if isinstance(mu, Grid) else mu), values


def health(state: State, evaluation: Evaluation) -> Int[Array, ""]:
    """The status of a freshly computed state: NaN and negative masses are caught here, nowhere else."""
    measure_ok = _finite((state.measure, state.fields))
    negative = jnp.any(state.measure.weights < 0)
    status = jnp.where(negative, codes.NEGATIVE_MASS, evaluation.status)
    # A failed inner solve, which leaves a NaN energy, is the better explanation while the measure is fine.
    unexplained = ~(_finite(evaluation.tangent) & jnp.isfinite(evaluation.energy)) & (status == codes.OK)
    return jnp.where(measure_ok & ~unexplained, status, codes.NON_FINITE).astype(jnp.int32)


def _finite(tree: Any) -> Array:
    ok = jnp.array(True)
    for array in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)):
        ok &= jnp.all(jnp.isfinite(array))
    return ok


def select(condition: Array, new: Any, old: Any) -> Any:
    """`new` where `condition`, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, new, old)


def one_step(sim: Simulation, carry: Carry, dt: Array) -> tuple[Carry, Array, Array]:
    """Try one step of size `dt`: (the carry if it is kept, its error, its status)."""
    key = None if sim.key is None else jr.fold_in(sim.key, carry.steps)
    step = sim.stepper.step(sim.flow, carry.state, carry.evaluation, dt, key, carry.memory)
    # What the scheme itself reports comes first: a NaN is often its consequence.
    status = jnp.where(step.status != codes.OK, step.status, health(step.state, step.evaluation))
    rates = carry.evaluation.dissipation + step.evaluation.dissipation
    kept = Carry(
        state=step.state,
        evaluation=step.evaluation,
        memory=step.memory,
        save=carry.save,
        steps=carry.steps + 1,
        rejected=carry.rejected,
        dt=carry.dt,
        dissipated=carry.dissipated + 0.5 * dt * rates,
        status=carry.status,
        failed_at=carry.failed_at,
    )
    return kept, step.error, status


def fail(carry: Carry, status: Array) -> Carry:
    """The carry of a run that stops here with `status`."""
    return eqx.tree_at(lambda c: (c.status, c.failed_at), carry, (status, carry.steps + 1))


# Reverse mode keeps the carry of each step and repeats the step, not its matrices.
@partial(eqx.filter_checkpoint, prevent_cse=False)
def fixed_step(sim: Simulation, carry: Carry, dt: Array) -> Carry:
    """One step of size `dt`; a run that has failed stays where it was."""
    kept, _, status = one_step(sim, carry, dt)
    moved = select(status == codes.OK, kept, fail(carry, status))
    return select(carry.status == codes.OK, moved, carry)


SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


def adaptive_interval(sim: Simulation, carry: Carry, begin: Array, end: Array) -> Carry:
    """Adaptive steps from one saved time to the next, landing on it exactly."""
    eps = float(jnp.finfo(carry.dt.dtype).eps)
    exponent = -1.0 / sim.stepper.order

    def running(loop):
        carry, time, tries = loop
        return (carry.status == codes.OK) & (time < end) & (tries < sim.max_steps)

    def attempt(loop):
        carry, time, tries = loop
        allowed = jnp.minimum(carry.dt, carry.evaluation.max_step)
        remaining = end - time
        last = allowed >= remaining * (1 - 10 * eps)
        # Two equal steps rather than one long and one tiny step before the saved time.
        dt = jnp.where(last, remaining, jnp.minimum(allowed, jnp.maximum(0.5 * remaining, 0.6 * allowed)))
        kept, error, status = one_step(sim, carry, dt)
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
        return new, time, tries + 1

    carry, time, _ = jax.lax.while_loop(running, attempt, (carry, begin, jnp.zeros((), jnp.int32)))
    unfinished = (carry.status == codes.OK) & (time < end)
    out_of_steps = jnp.asarray(codes.STEP_BUDGET, jnp.int32)
    return select(unfinished, fail(carry, out_of_steps), carry)


def fixed_interval(sim: Simulation, carry: Carry, begin: Array, end: Array) -> Carry:
    """From one saved time to the next in equal steps, the longest that do not exceed the stepper's size."""
    dt = sim.stepper.dt.astype(carry.dt.dtype)
    # The rounding of the two times, counted in steps: it must not add a step to a whole number of them.
    slack = 2 * float(jnp.finfo(dt.dtype).eps) * end / dt
    n = jnp.where(end > begin, jnp.maximum(jnp.ceil((end - begin) / dt - slack), 1), 0)
    stretched = (end - begin) / jnp.maximum(n, 1)
    body = lambda _, c: fixed_step(sim, c, stretched)
    return jax.lax.fori_loop(0, n.astype(jnp.int32), body, carry)


def steps_only(sim: Simulation, carry: Carry, steps: int) -> Carry:
    """Advance a run of fixed steps by `steps` of them."""
    dt = sim.stepper.dt.astype(carry.dt.dtype)
    return jax.lax.scan(lambda c, _: (fixed_step(sim, c, dt), None), carry, length=steps)[0]


def close(sim: Simulation, carry: Carry) -> tuple[Carry, Any]:
    """The carry that has reached the next saved time, and its record."""
    carry = eqx.tree_at(lambda c: c.save, carry, carry.save + 1)
    return carry, record(sim, carry)


def next_save(sim: Simulation, carry: Carry) -> Carry:
    """Advance a run from one saved time to the next."""
    if sim.save_every is not None:
        return steps_only(sim, carry, sim.save_every)
    times = sim.times.astype(carry.dt.dtype)
    begin, end = times[carry.save], times[carry.save + 1]
    interval = adaptive_interval if sim.stepper.adaptive else fixed_interval
    return interval(sim, carry, begin, end)


def advance(sim: Simulation, carry: Carry, saves: int) -> tuple[Carry, Any]:
    """Advance over `saves` saved times; records have the saves as leading axis."""
    return jax.lax.scan(lambda c, _: close(sim, next_save(sim, c)), carry, length=saves)


def begin(sim: Simulation) -> tuple[Carry, Any]:
    """The carry and the record at t = 0."""
    carry = start(sim)
    return carry, record(sim, carry)


def trajectory(sim: Simulation) -> tuple[Carry, Any]:
    """The pure core: the whole run, t = 0 included, for use inside `jit`, `vmap` and `grad`."""
    carry, first = begin(sim)
    carry, rest = advance(sim, carry, sim.save_times.shape[0])
    join = lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b])
    return carry, jax.tree.map(join, first, rest)
