"""One step of a run, pure: what is carried from step to step, and the step itself."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._engine.simulation import Simulation
from mfjax._numerics.arrays import Fixed
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.steppers.base import Step


class Carry(eqx.Module):
    """The whole state of a run between two steps: what a checkpoint holds.

    `save` saved times have been reached since the run began, and `taken` steps since the last of them;
    `steps` and `rejected` are counted from t = 0.
    """

    state: State
    evaluation: Evaluation
    memory: Any
    save: Int[Array, ""]
    taken: Int[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    dt: Float[Array, ""]
    dissipated: Float[Array, ""]
    status: Int[Array, ""]
    failed_at: Int[Array, ""]


def start(sim: Simulation) -> Carry:
    """The carry at t = 0, or where the run goes on."""
    state = sim.flow.init(sim.measure).at_time(sim.times[0]) if sim.start is None else sim.start.state
    first = jnp.zeros((), jnp.int32) if sim.start is None else sim.start.steps
    evaluation = sim.stepper.evaluate(sim.seen(first), state)
    state, evaluation = state.with_carry(evaluation.carry), _alone(evaluation)
    dtype = sim.measure.dtype
    zero = jnp.zeros((), jnp.int32)
    if sim.stepper.adaptive:
        # Traced times may begin with zero, or repeat one: an interval of no length is left at once.
        interval = jnp.min(jnp.where(sim.save_times > 0, sim.save_times, jnp.inf))
        dt = jnp.minimum(1e-3 * interval, evaluation.max_step).astype(dtype)
    else:
        dt = sim.stepper.size(first, dtype)
    found = health(sim.flow, state, evaluation)
    # No step was too large yet.
    found = jnp.where((found == codes.NON_FINITE) | (found == codes.NO_VALUE), codes.BAD_START, found)
    ordered = jnp.where(jnp.all(jnp.diff(sim.times) >= 0), codes.OK, codes.UNORDERED_TIMES)
    carry = Carry(
        state=state,
        evaluation=evaluation,
        memory=sim.stepper.init(sim.seen(first), state),
        save=zero,
        taken=zero,
        steps=zero,
        rejected=zero,
        dt=dt,
        dissipated=jnp.zeros((), dtype),
        status=codes.first(ordered, found),
        failed_at=zero,
    )
    return carry if sim.start is None else _further(sim.start, carry)


def _further(end: Carry, fresh: Carry) -> Carry:
    """The carry `end` of a run that goes on, once `fresh`, the same state seen anew, has shown it to be one.

    Its evaluation is kept: that of another program may be rounded otherwise.
    """
    known = lambda carry: [(x.shape, x.dtype) for x in jax.tree.leaves(eqx.filter(carry, eqx.is_array))]
    if jax.tree.structure(end) != jax.tree.structure(fresh) or known(end) != known(fresh):
        raise ValueError(
            "start= goes on with the same flow and stepper, and the state of this run has another structure: "
            "start another flow or stepper from start.final"
        )
    # An energy that is not known is no leaf.
    rates = lambda carry: jax.tree.leaves((carry.evaluation.energy, carry.evaluation.dissipation))
    a, b = (jnp.stack(rates(c)) for c in (end, fresh))
    alike = jnp.all((jnp.abs(a - b) <= 1e-2 * (jnp.abs(a) + jnp.abs(b))) | jnp.isnan(a))
    status = jnp.where(alike, fresh.status, codes.OTHER_RUN).astype(jnp.int32)
    where = lambda c: (c.save, c.taken, c.status, c.failed_at)
    return eqx.tree_at(where, end, (fresh.save, fresh.taken, status, fresh.failed_at))


def one_step(sim: Simulation, carry: Carry, time: Array, dt: Array) -> tuple[Carry, Array, Array]:
    """Try one step of size `dt` from `time`: (the carry if it is kept, its error, its status)."""
    key = None if sim.key is None else jr.fold_in(sim.key, carry.steps)
    state = carry.state.at_time(time)
    flow = sim.seen(carry.steps)
    step = sim.stepper.step(flow, state, carry.evaluation, dt, key, carry.memory)
    if not isinstance(step, Step):
        raise ValueError(
            f"{type(sim.stepper).__name__}.step must return a steppers.Step, as steppers.settle makes it, "
            f"got {type(step).__name__}"
        )
    if jax.tree.structure(step.memory) != jax.tree.structure(carry.memory):
        name = type(sim.stepper).__name__
        raise ValueError(
            f"{name}.step returned another memory than {name}.init, which makes that of the first step: "
            f"{jax.tree.structure(step.memory)} for {jax.tree.structure(carry.memory)}"
        )
    end, evaluation = step.state.at_time(time + dt), step.evaluation
    if sim.flow.random:
        # The scheme has seen the batch of this step at its end. What it found there nobody asks for, and the
        # compiler leaves it out: terms without batches start from where the step did, too.
        end = end.with_carry(state.carry)
    end = _ended(flow, end, dt)
    if sim.flow.random:
        evaluation = sim.stepper.evaluate(sim.seen(carry.steps + 1), end)
        end = end.with_carry(evaluation.carry)
    rates = carry.evaluation.dissipation + evaluation.dissipation
    kept = Carry(
        state=end,
        evaluation=_alone(evaluation),
        memory=step.memory,
        save=carry.save,
        taken=carry.taken + 1,
        steps=carry.steps + 1,
        rejected=carry.rejected,
        dt=carry.dt,
        dissipated=carry.dissipated + 0.5 * dt * rates,
        status=carry.status,
        failed_at=carry.failed_at,
    )
    # What the scheme itself reports comes first: a NaN is often its consequence.
    status = codes.first(step.status, _clock(carry, step.state, time + dt), health(sim.flow, end, evaluation))
    return kept, step.error, status


def _ended(flow: Flow, state: State, dt: Array) -> State:
    """`flow.end_step`. **Raises** `ValueError` where it returns another kind of state."""
    end = flow.end_step(state, dt)
    shapes = lambda state: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state)
    if jax.tree.structure(end) != jax.tree.structure(state) or shapes(end) != shapes(state):
        raise ValueError(
            f"{type(flow).__name__}.end_step returned a state of another structure than it was given: what "
            "it keeps begins in `init`"
        )
    return end


def _clock(carry: Carry, state: State, time: Array) -> Array | int:
    """Whether a scheme has moved the clock of a flow that depends on it."""
    if carry.evaluation.tangent.time is None:
        return codes.OK
    slack = 1e-3 * jnp.abs(time - carry.state.time) + 8 * jnp.finfo(time.dtype).eps * jnp.abs(time)
    return jnp.where(jnp.abs(state.time - time) <= slack, codes.OK, codes.FROZEN_CLOCK)


def health(flow: Flow, state: State, evaluation: Evaluation) -> Int[Array, ""]:
    """The status of a freshly computed state: NaN and negative numbers are caught here, nowhere else."""
    flow = flow.at(state)
    factors = [] if flow.energy is None else [c for c, _ in flow.energy.parts() if eqx.is_array(c)]
    cold = jnp.any(jnp.stack([jnp.asarray(c) < 0 for c in (flow.temperature, *factors)]))
    cold = jnp.where(cold, codes.NEGATIVE_FACTOR, codes.OK)
    measure_ok = _finite((state.measure, state.fields))
    negative = jnp.where(jnp.any(state.measure.weights < 0), codes.NEGATIVE_MASS, codes.OK)
    status = codes.first(negative, evaluation.status)
    # A failed inner solve, which leaves a NaN energy, is the better explanation while the measure is fine.
    energy, moves, fine = evaluation.energy, _finite(evaluation.tangent), status == codes.OK
    # A value that overflows does so before its slope, where steps are too large; NaN is another matter.
    lost = jnp.array(False) if energy is None else jnp.isnan(energy)
    status = jnp.where(fine & moves & lost, codes.NO_VALUE, status)
    explained = ~fine | (moves & (lost | _finite(energy)))
    return codes.first(cold, jnp.where(measure_ok & explained, status, codes.NON_FINITE))


def _finite(tree: Any) -> Array:
    ok = jnp.array(True)
    for array in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)):
        ok &= jnp.all(jnp.isfinite(array))
    return ok


def _alone(evaluation: Evaluation) -> Evaluation:
    """The evaluation without its carry, which the state has too: checkpoints hold it once."""
    return eqx.tree_at(lambda e: e.carry, evaluation, None, is_leaf=lambda node: node is None)


def select(condition: Array, new: Any, old: Any) -> Any:
    """`new` where `condition`, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, new, old)


def fail(carry: Carry, status: Array) -> Carry:
    """The carry of a run that stops here with `status`."""
    return eqx.tree_at(lambda c: (c.status, c.failed_at), carry, (status, carry.steps + 1))


def split(carry: Carry) -> tuple[Carry, Any]:
    """(what a run moves, what stays as it is): loops carry, copy and keep the first alone."""
    stays = lambda node: isinstance(node, Fixed)
    moving = jax.tree.map(lambda node: None if stays(node) else node, carry, is_leaf=stays)
    return moving, jax.tree.map(lambda node: node if stays(node) else None, carry, is_leaf=stays)


def joined(moving: Carry, fixed: Any) -> Carry:
    """The carry of which `split` made two."""
    return eqx.combine(moving, fixed, is_leaf=lambda node: isinstance(node, Fixed))
