"""The only loop over time: a pure core (state to state, one scan), and the run it produces.

The host driver around it (progress, disk, checkpoints, exceptions) is in `mfjax.drive`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, ScalarLike

from mfjax import status as codes
from mfjax._arrays import as_floats, count, finite, is_traced, scalar
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.flows.wasserstein import Wasserstein
from mfjax.grids import internal_parts, transport_part
from mfjax.measures import Grid, Measure
from mfjax.run import RECORDED
from mfjax.steppers import Adaptive, Rosenbrock, RosenbrockW, Stepper

Observable = Callable[[Measure, Flow], Array]


class Simulation(eqx.Module):
    """Everything that defines a run, unevaluated: the arguments of `mf.simulate`, checked.

    A sweep stacks these. `save_times` (S,) are the S saved times after t = 0.
    """

    flow: Flow
    measure: Measure
    stepper: Stepper
    observables: dict[str, Observable]
    key: Key[Array, ""] | None
    save_times: Float[Array, " S"]
    save_every: int | None = eqx.field(static=True)
    save_measures: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        flow: Flow,
        measure: Measure,
        *,
        stepper: Stepper | None = None,
        steps: int | None = None,
        save_every: int = 1,
        t1: ScalarLike | None = None,
        save_at: Any = None,
        observables: Mapping[str, Observable] | None = None,
        key: Key[Array, ""] | None = None,
        save_measures: bool = True,
        max_steps: int = 100_000,
    ):
        if not isinstance(flow, Flow):
            raise ValueError(f"flow must be a Flow, got {type(flow).__name__}")
        # Raises where the measure does not fit the flow.
        flow.init(measure)
        self.flow, self.measure = flow, measure
        self.stepper = default_stepper(flow, measure) if stepper is None else stepper
        if not isinstance(self.stepper, Stepper):
            raise ValueError(f"stepper must be a Stepper, got {type(stepper).__name__}")
        self.stepper.validate(flow, measure)
        self.observables = _checked_observables(observables)
        self.key = _checked_key(key, self.stepper.noisy and flow.stochastic)
        self.save_measures = bool(save_measures)
        self.max_steps = count(max_steps, "max_steps")
        self.save_every, self.save_times = _schedule(
            self.stepper, steps, save_every, t1, save_at, measure.dtype
        )

    @property
    def times(self) -> Float[Array, " S1"]:
        """The saved times, t = 0 first."""
        return jnp.concatenate([jnp.zeros_like(self.save_times[:1]), self.save_times])


def default_stepper(flow: Flow, measure: Measure) -> Stepper:
    """An adaptive scheme for the measure, linearly implicit where it diffuses on a grid.

    A flow with noise needs an explicit step.
    """
    if flow.stochastic and hasattr(measure, "marks"):
        raise ValueError(
            "a flow with noise (temperature > 0) has no adaptive default: pass "
            "stepper=steppers.EulerMaruyama(dt)"
        )
    tight = measure.dtype == jnp.float64
    rtol, atol = (1e-6, 1e-9) if tight else (1e-4, 1e-6)
    if isinstance(measure, Grid) and isinstance(flow, Wasserstein) and internal_parts(flow.energy):
        stiff = RosenbrockW if transport_part(flow.energy).parts() else Rosenbrock
        return stiff(rtol=rtol, atol=atol)
    return Adaptive(rtol=rtol, atol=atol)


def _checked_observables(observables) -> dict[str, Observable]:
    observables = {} if observables is None else observables
    if not isinstance(observables, Mapping):
        raise ValueError(
            f"observables must be a mapping from names to functions, got {type(observables).__name__}"
        )
    observables = dict(observables)
    for name, observable in observables.items():
        if not isinstance(name, str) or not callable(observable):
            raise ValueError(
                f"observables must map names to functions of (measure, flow), got {name!r}: {observable!r}"
            )
        if name in RESERVED:
            raise ValueError(f"the observable name {name!r} is recorded with every run; choose another")
    return observables


def _checked_key(key, needed: bool):
    if key is None:
        if needed:
            raise ValueError("this flow has noise (temperature > 0): pass key=jax.random.key(seed)")
        return None
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key must be a typed key, jax.random.key(seed), got {key!r}")
    if key.ndim != 0:
        raise ValueError(f"key must be one key, got an array of shape {key.shape}")
    return key


def _schedule(stepper, steps, save_every, t1, save_at, dtype):
    """(save_every or None, saved times) from one of the two forms of the time axis."""
    if (steps is None) == (t1 is None and save_at is None):
        raise ValueError("pass either steps= (with a fixed stepper) or t1= and/or save_at= (any stepper)")
    every = count(save_every, "save_every")
    if steps is not None:
        if stepper.adaptive:
            raise ValueError(
                f"steps= counts steps of a fixed size, and {type(stepper).__name__} chooses its own: pass t1="
            )
        steps = count(steps, "steps")
        if steps % every:
            raise ValueError(
                f"steps = {steps} is not a multiple of save_every = {every}: the end would not be saved"
            )
        _check_step_count(steps)
        index = jnp.arange(1, steps // every + 1)
        return every, (index * every).astype(dtype) * stepper.dt.astype(dtype)
    if every != 1:
        raise ValueError(
            f"save_every = {every} counts steps: with t1= or save_at=, list the times in save_at"
        )
    times = _saved_times(t1, save_at, dtype)
    if not stepper.adaptive and not is_traced((times, stepper.dt)):
        _check_step_count(float(times[-1]) / float(stepper.dt))
    return None, times


def _check_step_count(steps: int | float) -> None:
    if steps >= 2**31:
        raise ValueError(
            f"a run has fewer than 2**31 steps, got {steps:g}: use a larger dt, or an adaptive stepper"
        )


def _saved_times(t1, save_at, dtype) -> Array:
    """The increasing saved times after 0, in the dtype of the run, which may merge times that differ."""
    end = None if t1 is None else scalar(t1, "t1", above=0)
    if save_at is None:
        return end.astype(dtype)[None]
    times = as_floats(save_at, "save_at")
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"save_at must be a list of times, got shape {times.shape}")
    if is_traced((times, end)):
        if end is not None:
            raise ValueError("t1 and save_at cannot be compared while traced: let save_at end with t1")
        return times.astype(dtype)
    values = np.asarray(finite(times, "save_at")).astype(dtype)
    end = None if end is None else np.asarray(end).astype(dtype)
    if values[0] == 0:
        values = values[1:]
    if end is not None and (values.size == 0 or values[-1] < end):
        values = np.append(values, end)
    if values.size == 0:
        raise ValueError("save_at holds only t = 0, which is always saved: add later times, or t1")
    if values[0] <= 0 or np.any(np.diff(values) <= 0):
        raise ValueError(f"the saved times must be positive and increasing in {dtype}, got {values.tolist()}")
    if end is not None and values[-1] > end:
        raise ValueError(f"save_at ends at {values[-1]:g}, after t1 = {float(end):g}")
    return jnp.asarray(values)


RESERVED = tuple(RECORDED)


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
    state = State(state.measure, evaluation.carry)
    dtype = sim.measure.dtype
    zero = jnp.zeros((), jnp.int32)
    if sim.stepper.adaptive:
        interval = sim.save_times[0]
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
        status=jnp.where(evaluation.status > 0, evaluation.status, health(state, evaluation)),
        failed_at=zero,
    )


def record(sim: Simulation, carry: Carry) -> tuple[Any, dict[str, Any]]:
    """What is saved of a run at one time: the part of the measure that moves, and the observables.

    Observables of a failed run are NaN, its measure is the last good one.
    """
    mu = carry.state.measure
    values = {
        "energy": carry.evaluation.energy,
        "dissipation": carry.evaluation.dissipation,
        "dissipated": carry.dissipated,
        "residual": carry.evaluation.residual,
        "mass": mu.mass,
        "min_weight": jnp.min(mu.weights),
    }
    values |= {name: observe(mu, sim.flow) for name, observe in sim.observables.items()}
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
    return (mu.weights if isinstance(mu, Grid) else mu), values


def health(state: State, evaluation: Evaluation) -> Int[Array, ""]:
    """The status of a freshly computed state: NaN and negative masses are caught here, nowhere else."""
    measure_ok = _finite(state.measure)
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


def fixed_step(sim: Simulation, carry: Carry) -> Carry:
    """One step of the stepper's own size; a run that has failed stays where it was."""
    dt = sim.stepper.dt.astype(carry.dt.dtype)
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
        proposal = dt * jnp.where(good, jnp.maximum(factor, 1.0), jnp.minimum(factor, SAFETY))
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
    n = jnp.maximum(jnp.ceil((end - begin) / dt - slack), 1)
    stretched = (end - begin) / n

    def body(_, carry):
        kept, _, status = one_step(sim, carry, stretched)
        moved = select(status == codes.OK, kept, fail(carry, status))
        return select(carry.status == codes.OK, moved, carry)

    return jax.lax.fori_loop(0, n.astype(jnp.int32), body, carry)


def next_save(sim: Simulation, carry: Carry) -> Carry:
    """Advance a run from one saved time to the next."""
    if sim.save_every is not None:
        body = lambda c, _: (fixed_step(sim, c), None)
        carry, _ = jax.lax.scan(body, carry, length=sim.save_every)
    else:
        times = sim.times.astype(carry.dt.dtype)
        begin, end = times[carry.save], times[carry.save + 1]
        interval = adaptive_interval if sim.stepper.adaptive else fixed_interval
        carry = interval(sim, carry, begin, end)
    return eqx.tree_at(lambda c: c.save, carry, carry.save + 1)


def advance(sim: Simulation, carry: Carry, saves: int) -> tuple[Carry, Any]:
    """Advance over `saves` saved times; records have the saves as leading axis."""

    def body(carry, _):
        carry = next_save(sim, carry)
        return carry, record(sim, carry)

    return jax.lax.scan(body, carry, length=saves)


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
